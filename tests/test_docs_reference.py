"""The generated pages of docs/reference are up to date, and leave nothing out."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

import labeler
from labeler.cli import _parser
from labeler.config import Config
from labeler.training.config import TrainingJob
from tests.docs_pages import PAGES, REFERENCE, configuration, python_api

MODELS = [
    (" and ".join(paths) or root.__name__, model)
    for root in (Config, TrainingJob)
    for model, paths in configuration.sections(root).items()
]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_source_says_now(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), "run `make reference`, and commit what it writes"


@pytest.mark.parametrize(("section", "model"), MODELS, ids=[f"{m.__module__}.{m.__name__}" for _, m in MODELS])
def test_every_key_has_a_sentence(section: str, model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        text = field.description or ""
        assert text.endswith("."), f"{section}.{name} has no description: write a sentence in a docstring below it"


def test_all_sections_of_a_config_are_found() -> None:
    page = configuration.labeling_page()
    for path in ("input", "detect.nms_iou", "detect.image_size.longest_edge", "prompts.from.run", "s3.unsigned"):
        assert f"| `{path}` |" in page
    assert "| `data.shapes.natural` |" in configuration.training_page()


def test_the_schema_takes_what_a_config_takes() -> None:
    schema = json.loads(configuration.labeling_schema())
    kinds = [each.get("type") for each in schema["properties"]["input"]["anyOf"]]
    assert "string" in kinds
    assert schema["$defs"]["DetectConfig"]["properties"]["nms_iou"]["default"] == 0.7
    assert schema["$defs"]["DetectConfig"]["additionalProperties"] is False


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    assert python_api.shown() == {*labeler.__all__} - {"__version__"}


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = (REFERENCE / "cli.md").read_text()
    for name in _parser()[1].choices:
        assert f"\n## labeler {name}\n" in page
        assert f"(#labeler-{name})" in page


def test_a_definition_is_found_through_the_imports_of_a_package() -> None:
    assert python_api.find("labeler.images", "decode").name == "decode"
    with pytest.raises(LookupError):
        python_api.find("labeler.images", "nothing_of_that_name")


def test_arguments_are_split_at_their_own_commas() -> None:
    text = "a: dict[str, int], b: str=',', *, c=(1, 2)"
    assert list(python_api._split(text)) == ["a: dict[str, int]", "b: str=','", "*", "c=(1, 2)"]
