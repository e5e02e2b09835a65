"""The catalog of models: what it says of this code is true, and the page has what the command prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from benchmarks.models_page import PAGE
from labeler.catalog.entries import ENTRIES
from labeler.catalog.entry import NOT_RUN
from labeler.catalog.listing import BEGIN, END, listed, replace_section
from labeler.cli import main
from labeler.config import RECOMMENDED_MODELS
from labeler.prompts.families import DEFAULT, family_of
from labeler.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
# Declared already, and shown once a family of labeler has them.
PLANNED = {"owlv2", "owlvit", "rt_detr", "rt_detr_v2", "d_fine", "deimv2", "rf_detr", "lw_detr", "yolos", "detr"}


def test_every_entry_is_of_a_known_family_or_of_one_that_is_planned() -> None:
    shown = {one.entry.model for one in listed()}
    for entry in ENTRIES:
        family = family_of(entry.model_type)
        assert (entry.model in shown) == (family is not None)
        if family is None:
            assert entry.model_type in PLANNED
    assert {one.family for one in listed()} >= {DEFAULT.name}
    assert len({entry.model for entry in ENTRIES}) == len(ENTRIES)


def test_every_class_is_one_of_transformers() -> None:
    for one in listed():
        family = family_of(one.entry.model_type)
        assert family is not None
        assert (one.family, one.model_class) == (family.name, family.architectures[one.entry.model_type])
        assert hasattr(transformers, one.model_class)


def test_what_others_are_pointed_at_is_in_it() -> None:
    licences = {entry.model: entry.licence for entry in ENTRIES}
    assert dict(RECOMMENDED_MODELS).items() <= licences.items()


def test_what_was_reproduced_has_a_file_and_the_rest_says_so() -> None:
    for entry in ENTRIES:
        benchmarks = [figure.benchmark for figure in entry.figures]
        assert len(set(benchmarks)) == len(benchmarks)
        for benchmark, file in entry.reproduced:
            said = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
            assert (said["model"], said["benchmark"], said["verdict"]) == (entry.model, benchmark, "reproduced")
    assert {entry.reproduced_as(f.benchmark) for entry in ENTRIES for f in entry.figures} == {NOT_RUN}


@pytest.mark.parametrize(("name", "place"), [("coco", 0), ("lvis_v1", 1)])
def test_passes_of_families_that_look_for_phrases_are_those_of_their_plans(name: str, place: int) -> None:
    """SAM 3's by its phrases, for which the plan needs a tokenizer; Grounding DINO's are in its own tests."""
    phrases = sum(len(category.phrases) for category in Vocabulary.load(name).categories)
    (entry,) = [one.entry for one in listed() if one.family == "sam3"]
    assert entry.passes[place] == phrases


def test_the_page_has_what_the_code_says() -> None:
    program = "from labeler.catalog.listing import listed, markdown; print(markdown(listed()), end='')"
    done = subprocess.run(  # without the families that tests register
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    page = PAGE.read_text()
    assert replace_section(page, done.stdout) == page, "run: python -m benchmarks.models_page"
    with pytest.raises(ValueError, match="the page has no"):
        replace_section(page.replace(END, ""), done.stdout)
    assert page.count(BEGIN) == 1


def test_the_command_prints_a_list_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "IDEA-Research/grounding-dino-tiny (GroundingDinoForObjectDetection, Apache-2.0)" in out
    assert "coco AP 48.4 (zero-shot, val2017, 800 x 1333, one caption), reproduced: not run; https://arxiv.org/" in out
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in found] == [one.entry.model for one in listed()]
    assert found[0]["passes"] == {"coco": 1, "lvis_v1": 15}
    assert found[0]["figures"][0]["reproduced"] == NOT_RUN
