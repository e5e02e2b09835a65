"""Help and mistakes on the command line: every command has a sentence and an example; typos get the nearest word."""

from __future__ import annotations

import shlex

import pytest

from labeler.cli import VERBS, _parse, _parser, main
from labeler.commands import help as texts

COMMANDS = list(_parser()[1].choices)


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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_sentence_and_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    about, shown = texts.COMMANDS[command], help_of(capsys, command)
    assert about.text in " ".join(shown.split()) or about.text in shown
    assert about.text.endswith(".")
    assert not about.line.endswith(".")
    assert about.examples
    for example in about.examples:
        assert example in shown
        assert _parse(shlex.split(example)[1:]).verb == command


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
