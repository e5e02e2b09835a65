"""JSON of strangers: deep, huge, cut off or odd documents are one line for every reader, and never a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labeler import plain_json
from labeler.cli import main
from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.errors import Refused
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from tests.label_runs import noisy_run

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "brackets": DEEP,
    "objects": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "below Python's own limit": "[" * 65 + "]" * 65,
    "cut off": '{"a": [1, 2',
    "not UTF-8": b"\xff\xfe{}",
    "a huge number": "9" * 10_000,
    "nothing": "",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_documents_are_one_kind_of_failure(text: str | bytes) -> None:
    with pytest.raises(plain_json.NotPlainJson) as caught:
        plain_json.parse(text)
    assert "\n" not in str(caught.value)


def test_the_limits() -> None:
    assert plain_json.parse("[" * 64 + "1" + "]" * 64)
    assert plain_json.parse('"' + "[" * 1000 + '"') == "[" * 1000
    with pytest.raises(plain_json.NotPlainJson, match="more than 0 MiB"):
        plain_json.parse("[1, 2]", max_bytes=5)
    with pytest.raises(plain_json.NotPlainJson, match="line 2: "):
        plain_json.parse('{"a": 1,\n]')


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_file_of_json_that_a_command_reads_is_refused_in_one_line(
    tmp_path: Path, checkpoint: Path, text: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    run, truth = noisy_run(tmp_path / "run", {3: 1.0}, images=4)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    bad = tmp_path / "bad.json"
    bad.write_bytes(data)
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "config.json").write_bytes(data)
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (other / "tokenizer.json").write_bytes(data)
    damaged = Path(shutil.copytree(run.uri, tmp_path / "damaged"))
    (damaged / "run.json").write_bytes(data)
    commands = [
        ["evaluate", run.uri, "--annotations", str(bad)],
        ["evaluate", str(bad), "--annotations", str(tmp_path / "truth.json")],
        ["calibrate", run.uri, "--marks", str(bad), "--target", "precision=0.9"],
        ["report", run.uri, "--annotations", str(bad)],
        ["vocabulary", "check", str(bad)],
        ["vocabulary", "check", "coco", "--model", str(broken)],
        ["vocabulary", "check", "coco", "--model", str(other)],
        ["status", str(damaged)],
    ]
    for command in commands:
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, command


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, id="panics"),
        pytest.param({"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}}, id="regex"),
        pytest.param({"model": {"unk_token": "<nothing>"}}, id="no unknown token"),
    ],
)
def test_a_hostile_tokenizer_is_refused_and_prints_nothing_else(
    tmp_path: Path, change: dict[str, dict[str, str]]
) -> None:
    write_wordpiece(tmp_path, ["cat"])
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    for key, value in change.items():
        values[key] = {**(values[key] if key == "model" else {}), **value}
    path.write_text(json.dumps(values))
    with pytest.raises(Refused, match="as a tokenizer"):
        Tokenizer.load(tmp_path)
    load = f"try: Tokenizer.load({str(tmp_path)!r})\nexcept Exception: pass"
    command = f"from labeler.prompts.grounding_dino.tokenizer import Tokenizer\n{load}"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert ended.stderr == ""


@pytest.mark.parametrize(
    "condition",
    [
        "1=1) union all (select 1 from rows where (1=1",
        "1=1) or (1=1",
        "1=1); select 1 where (1=1",
        "true --",
        "width >",
    ],
)
def test_a_condition_that_leaves_its_brackets_is_refused(
    tmp_path: Path, condition: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = noisy_run(tmp_path / "run", {3: 1.0}, images=4)
    command = ["export", run.uri, "--to", "coco", "--where", condition, "--output", str(tmp_path / "coco.json")]
    expected = 0 if condition == "true --" else 2
    assert main(command) == expected
    assert len(capsys.readouterr().err.splitlines()) == (1 if expected else 0)
