"""Help and mistakes on the command line: every command has a sentence and an example; typos get the nearest word."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from labeler.cli import VERBS, _parse, _parser, main
from labeler.commands import help as texts
from labeler.commands.parser import commands_of

ROOT = Path(__file__).parent.parent
PARSERS = commands_of(_parser()[1])
COMMANDS = [name for name in PARSERS if " " not in name]


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_command_is_described_and_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(texts.COMMANDS) == sorted(COMMANDS)
    assert len(VERBS) == len(COMMANDS)
    lines = [line for line in help_of(capsys).splitlines() if line.startswith("  ")]
    listed = [line.split()[0] for line in lines if not line.startswith("  labeler")]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", PARSERS)
def test_a_command_has_a_sentence_and_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    about, shown = (texts.COMMANDS | texts.ACTIONS)[command], help_of(capsys, *command.split())
    assert about.text in " ".join(shown.split()) or about.text in shown
    assert about.text.endswith(".")
    assert not about.line.endswith(".")
    assert about.examples
    for example in about.examples:
        assert example in shown
        assert _parse(shlex.split(example)[1:]).verb == command.split()[0]


NAMES = ("COCO", "HTML", "JSON", "YAML")  # words that a help may begin with in capitals
SHORT = 8  # options that need no groups


@pytest.mark.parametrize("command", PARSERS)
def test_an_option_s_help_is_in_the_style_of_the_others(command: str) -> None:
    parser = PARSERS[command]
    actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    for action in actions:
        name, said = "/".join(action.option_strings) or action.dest, action.help or ""
        assert said, name
        assert not said.endswith("."), name
        assert said[0].islower() or said.split()[0] in NAMES, f"{name}: {said}"
        assert not re.search(r"\(default [^:]|\bdefault:(?! )", said), f"{name}: {said}"
        if action.option_strings and action.nargs != 0 and action.choices is None:
            assert action.metavar is not None, f"{name}: its value has no name in capitals"
        shown = action.default not in (None, False, argparse.SUPPRESS) and action.option_strings
        assert not shown or "(default: " in said, f"{name}: {said}"
    options = [group for group in parser._action_groups if group.title == "options"]
    assert len(options[0]._group_actions) <= SHORT, "put them into groups"


def test_help_is_also_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["label"], ["vocabulary", "check"]):
        with pytest.raises(SystemExit) as ended:
            main(["help", *words])
        assert ended.value.code == 0
        assert capsys.readouterr().out == help_of(capsys, *words)


def test_examples_and_usage_name_arguments_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert "RUN_A RUN_B" in help_of(capsys, "compare")
    assert "BENCHMARK MODEL" in help_of(capsys, "reproduce")


def test_nothing_asked_for_is_the_help_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().out == help_of(capsys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lable c.yaml", "'lable'; did you mean label?"),
        ("export RUN --to cocoo", "'cocoo'; did you mean coco?"),
        ("export RUN --to coco --treshold 0.3", "--treshold 0.3; did you mean --threshold?"),
        ("vocabulary chek names.txt", "'chek'; did you mean check?"),
        ("evaluate RUN --annotation-file x --annotations y", "unrecognized arguments: --annotation-file x"),
        ("status", "required: RUN;"),
        ("label", "required: CONFIG;"),
        ("label detect.score_floor=0.1 --extend", "CONFIG is missing: 'detect.score_floor=0.1' is an override"),
        ("label c.yaml --detect.score_floor=0.1", "--detect.score_floor=0.1; did you mean detect.score_floor=0.1?"),
        ("label c.yaml --extend --ray.read-tasks 4", "--ray.read-tasks 4; did you mean ray.read_tasks=4?"),
        ("label c.yaml --output=s3://b/run", "did you mean output=s3://b/run?"),
        ("label c.yaml --extendd", "--extendd; did you mean --extend?"),
        ("label c.yaml --extend other.yaml", "arguments: other.yaml; an override looks like section.key=value;"),
        ("label c.yaml --extend -- other.yaml", "unrecognized arguments: other.yaml;"),
        ("label c.yaml --https://me:hush@host/x?hush", "unrecognized arguments: --https://***@host/x?...;"),
        ("status RUN x=1", "unrecognized arguments: x=1;"),
        ("vocabulary check c.yaml --modle m", "labeler vocabulary check: unrecognized arguments: --modle m; did you"),
        ("xyzzy", "unknown command 'xyzzy' (choose from label, submit,"),
        ("export RUN --to coco --threshold high", "argument --threshold: invalid float value: 'high'"),
    ],
)
def test_a_mistake_is_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("labeler")
    assert "--help`" in err


@pytest.mark.parametrize(
    "line",
    [
        "label c.yaml detect.score_floor=0.1 --extend ray.workers=2",
        "label detect.score_floor=0.1 c.yaml --extend ray.workers=2",
        "label --extend detect.score_floor=0.1 ray.workers=2 c.yaml",
        "label c.yaml --extend -- detect.score_floor=0.1 ray.workers=2",
        "label -- c.yaml detect.score_floor=0.1 ray.workers=2",
    ],
)
def test_overrides_stand_anywhere(line: str) -> None:
    arguments = _parse(shlex.split(line))
    assert (arguments.config, arguments.overrides) == ("c.yaml", ["detect.score_floor=0.1", "ray.workers=2"])


def test_a_run_whose_folder_reads_as_an_override_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _parse(["retry", "date=1/run", "--status", "too_large", "ray.workers=1"]).run_uri == "date=1/run"
    (tmp_path / "day=1").mkdir()
    assert _parse(["retry", "day=1", "ray.workers=1", "--status", "too_large"]).run_uri == "day=1"


@pytest.mark.parametrize("option", ["--log-format=json", "--log-format json"])
def test_a_mistake_is_json_in_a_log_of_json(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(f"label c.yaml --exted {option}"))
    said = json.loads(capsys.readouterr().err)
    assert (ended.value.code, said["level"]) == (2, "error")
    assert "--exted; did you mean --extend?" in said["message"]


PRESS_TAB = """
complete_line() {
    COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9; COMPREPLY=()
    _python_argcomplete labeler "${COMP_LINE##* }" ""
    echo "${COMPREPLY[*]}"
}
"""


def test_tab_completes_commands_options_choices_and_formats_in_bash(tmp_path: Path) -> None:
    argcomplete = pytest.importorskip("argcomplete", reason="the development group has argcomplete")
    command = tmp_path / "bin" / "labeler"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m labeler "$@"\n')
    command.chmod(0o755)
    asked = {
        "labeler re": "retry revise rescore report reproduce",
        "labeler vocabulary c": "check ",
        "labeler export RUN --thr": "--threshold --thresholds",
        "labeler export RUN --to c": "coco cvat",
        "labeler label c.yaml --log-format ": "text json",
    }
    lines = [f"complete_line '{line}'" for line in asked]
    script = "\n".join([argcomplete.shellcode(["labeler"], shell="bash"), PRESS_TAB, *lines])
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == asked


def test_without_the_extra_tab_completes_nothing_and_a_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)  # as if it were not installed
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert "Label millions of images" in help_of(capsys)
