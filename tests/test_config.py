from __future__ import annotations

from pathlib import Path

import pytest

from labeler.config import config_of_run, load_config, make_config, of_families
from labeler.errors import Refused

LEAST = {"input": "s3://b/in", "output": "s3://b/out", "vocabulary": "coco"}
CONFIGS = sorted(Path(__file__).parent.parent.joinpath("configs").glob("*.yaml"))


def test_an_empty_config_names_every_missing_key() -> None:
    with pytest.raises(Refused) as refused:
        make_config({})
    assert refused.value.problems == ("input is missing", "output is missing", "vocabulary is missing")


def test_plain_strings_stand_for_uris() -> None:
    config = make_config(LEAST)
    assert config.input_uris == ("s3://b/in",)
    assert config.output.uri == "s3://b/out"


def test_a_missing_model_is_refused_with_three_recommendations_and_their_licences() -> None:
    with pytest.raises(Refused, match=r"model.name is missing.*Apache-2.0.*Apache-2.0.*Apache-2.0"):
        _ = make_config(LEAST).model_name


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("detect.score_floor=0.1", ("detect", "score_floor"), 0.1),
        ("unit.max_bytes=1MiB", ("unit", "max_bytes"), 2**20),
        ("model.name=org/model", ("model", "name"), "org/model"),
        ("input.limit=10", ("input", "limit"), 10),
        ("input=s3://b/{000..009}.tar", ("input", "uri"), "s3://b/{000..009}.tar"),
        ("input={a,b}.tar", ("input", "uri"), "{a,b}.tar"),
        ("output=/other", ("output", "uri"), "/other"),
        ("detect.image_size={shortest_edge: 256, longest_edge: 400}", ("detect", "image_size", "longest_edge"), 400),
    ],
)
def test_overrides_reach_their_key(override: str, path: tuple[str, ...], value: object) -> None:
    found: object = make_config(LEAST, [override])
    for name in path:
        found = getattr(found, name)
    assert found == value


def test_an_output_override_keeps_the_rest_of_its_section() -> None:
    config = make_config({**LEAST, "output": {"uri": "/a", "single_writer": True}}, ["output=/b"])
    assert (config.output.uri, config.output.single_writer) == ("/b", True)


def test_unknown_keys_and_wrong_values_are_refused_all_at_once() -> None:
    with pytest.raises(Refused) as refused:
        make_config({**LEAST, "detect": {"score_flor": 0.1}, "untis": 3}, ["unit.max_images=zero"])
    text = "\n".join(refused.value.problems)
    assert "unknown key detect.score_flor; did you mean score_floor?" in text
    assert "unknown key untis; did you mean unit?" in text
    assert "unit.max_images" in text
    assert "'zero'" in text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("detect.score_floor=abc", "detect.score_floor: must be a number from 0 to 1, got 'abc'"),
        ("detect.nms_iou=abc", "detect.nms_iou: must be a number above 0 and up to 1, got 'abc'"),
        ("input.limit=1.5", "input.limit: must be a whole number above 0, got 1.5"),
        ("ray.seed=x", "ray.seed: must be a whole number, got 'x'"),
        ("detect.jpeg_draft=perhaps", "detect.jpeg_draft: must be true or false, got 'perhaps'"),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(override: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        make_config(LEAST, [override])
    assert str(refused.value) == f"config: {says}"


def test_a_section_whose_keys_are_not_indented_is_named() -> None:
    with pytest.raises(Refused) as refused:
        make_config({**LEAST, "model": None, "name": "some/model"})
    assert refused.value.problems[0] == "model is empty; indent its keys below it"


@pytest.mark.parametrize("override", ["input.format=zip", "input.limit=0"])
def test_a_format_or_limit_that_cannot_be_is_refused(override: str) -> None:
    name = override.partition("=")[0]
    with pytest.raises(Refused, match=name):
        make_config(LEAST, [override])


@pytest.mark.parametrize("override", ["nonsense", "=3", "a..b=1"])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(Refused, match=r"must look like section\.key=value"):
        make_config(LEAST, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a\n- b\n", "must be a mapping"),
        ("input: [", "is not valid YAML"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("input: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_config_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=message) as refused:
        load_config(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", [p for p in CONFIGS if not p.name.startswith("train")], ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).model_name


def test_keys_with_line_breaks_are_named_in_one_line() -> None:
    with pytest.raises(Refused) as caught:
        make_config({"output": "o"}, ["- cat\n-={a: b}"])
    assert "unknown key - cat\\n-" in " ".join(caught.value.problems)
    assert not any("\n" in line for line in caught.value.problems)


def test_what_a_run_says_that_was_retired_is_refused_by_name_and_other_values_are_followed() -> None:
    config = config_of_run({**LEAST, "detect": {"jpeg_decoder": "pillow", "nms_iou": 0.5}}, where="the config of run r")
    assert (config.detect.nms_iou, config.detect.jpeg_decoder) == (0.5, "pillow")
    with pytest.raises(Refused, match=r"the config of run r cannot .*: detect.jpeg_decoder=nvimgcodec was retired"):
        config_of_run({**LEAST, "detect": {"jpeg_decoder": "nvimgcodec"}}, where="the config of run r")


def test_cuda_graphs_are_off_unless_a_config_asks_for_them_or_for_a_trial() -> None:
    assert make_config(LEAST).detect.cuda_graphs is False
    for text, value in (("true", True), ("false", False), ("auto", "auto")):
        assert make_config(LEAST, [f"detect.cuda_graphs={text}"]).detect.cuda_graphs == value
    with pytest.raises(Refused, match=r"detect\.cuda_graphs"):
        make_config(LEAST, ["detect.cuda_graphs=sometimes"])
    assert of_families(make_config(LEAST)) == {}
    assert of_families(make_config(LEAST, ["detect.cuda_graphs=auto"])) == {"detect.cuda_graphs": "auto"}
