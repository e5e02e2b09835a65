"""labeler.plain_yaml, and all that reads YAML through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler import plain_yaml
from labeler.config import load_config, make_config
from labeler.errors import Refused
from labeler.labels.thresholds import read_thresholds
from labeler.plain_yaml import NotPlainYaml, parse
from labeler.vocabulary import Vocabulary

TRICKS = {
    "an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
    "an alias of itself": "&a [*a]",
    "code": "!!python/object/apply:os.system ['touch /tmp/owned']",
    "a tag of its own": "!include secrets.yaml",
    "a set": "!!set {a, b}",
    "a date that is none": "x: 2024-13-45",
    "a time zone that is none": "x: 2001-12-14t21:59:43.10+99:99",
    "a number without digits": "x: 0b_",
    "a number of 5,000 digits": "x: " + "1" * 5000,
    "a number of 12,000 bits": "x: 0x" + "f" * 3000,
    "sixty to the power of 3,000": "x: " + "1:" * 3000 + "1",
    "depth": "[" * 2000,
    "depth of mappings": "{a: " * 1000,
    "a key twice": "a: 1\na: 2",
    "half a surrogate": 'a: "\\ud800"',
    "a control character": "a: \x07",
    "two documents": "a: 1\n---\nb: 2",
    "a key that is a list": "? [a]\n: b",
    "a merge of nothing": "<<: 3",
}


def test_nothing_parses_to_nothing() -> None:
    assert parse("") == (None, None)
    assert parse("# a comment") == (None, None)


def test_plain_data_is_what_it_says() -> None:
    assert parse("a: [1, 0.5, yes, no, text, 'a: b', null]\nb: {c: 2024-01-02}")[0]["a"][:3] == [1, 0.5, True]


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_refused_in_one_short_line_wherever_yaml_is_read(name: str, tmp_path: Path) -> None:
    text = TRICKS[name]
    with pytest.raises(NotPlainYaml) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    path = tmp_path / "file.yaml"
    path.write_text(text)
    some = Vocabulary.load(["cat"])
    for read in (load_config, lambda path: Vocabulary.load(str(path)), lambda path: read_thresholds(path, some)):
        with pytest.raises(Refused) as refused:
            read(path)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300 + len(str(path))
    with pytest.raises(Refused):
        make_config({}, ["input.limit=" + text])  # in an override it is plain text, not a number


def test_a_refusal_names_the_line() -> None:
    with pytest.raises(NotPlainYaml, match=r"line 3: aliases \(\*name\) are not allowed"):
        parse("a: &x 1\nb: 2\nc: *x\n")
    with pytest.raises(NotPlainYaml, match=r"line 2: not a usable value \(month must be.*\); put text in quotes"):
        parse("a: 1\nb: 2024-13-01\n")


def test_what_does_not_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "zeros.yaml").symlink_to("/dev/zero")
    (tmp_path / "zeros.txt").symlink_to("/dev/zero")
    with pytest.raises(Refused, match="not a regular file"):
        load_config(tmp_path / "zeros.yaml")
    with pytest.raises(Refused, match="not a regular file"):
        Vocabulary.load(str(tmp_path / "zeros.txt"))


def test_size_is_bounded_before_and_while_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "MAX_NODES", 1000)
    assert len(parse("[" + "1," * 999 + "]")[0]) == 999
    with pytest.raises(NotPlainYaml, match="line 1: more than 1000 values"):
        parse("[" + "1," * 1000 + "]")
    with pytest.raises(NotPlainYaml, match=f"more than {plain_yaml.MAX_CHARACTERS} characters"):
        parse(" " * (plain_yaml.MAX_CHARACTERS + 1))
