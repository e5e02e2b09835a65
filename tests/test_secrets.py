"""No password, key or signature reaches run.json, the log or an error, wherever in the input it stood."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from labeler import storage
from labeler.cli import main
from labeler.config import make_config
from labeler.errors import LabelerError
from labeler.labeling.fingerprint import public_config
from labeler.runs.erasure.made import note_made, read_made
from labeler.runs.manifest import Manifest
from labeler.shards import find_shards, patterns
from labeler.storage import retries
from labeler.terminal import message_console, safe_output
from labeler.vocabulary import Vocabulary
from tests.label_runs import row, write_run

SECRET = "hunter2"
URLS = (
    f"https://me:{SECRET}@127.0.0.1:9/a",
    f"https://127.0.0.1:9/a.txt?X-Amz-Signature={SECRET}&x=1",
    f"https://127.0.0.1:9/a.txt?{SECRET}",
    f"https://me:p@ss{SECRET}@127.0.0.1:9/a.txt",
    f"s3://KEY:{SECRET}@bucket/x.tar",
    f"nonsense://me:{SECRET}@host/x.tar",
)


@pytest.mark.parametrize("url", URLS)
def test_run_json_has_no_secret(url: str) -> None:
    for vocabulary in (url, {"name": url, "negative": ["sky"]}, [{"name": "cat"}]):
        config = make_config({"input": [url, url], "output": url, "vocabulary": vocabulary, "model": {"name": url},
                              "ray": {"address": url}})  # fmt: skip
        shown = json.dumps(public_config(config))
        assert SECRET not in shown
        assert "host" in shown or "127.0.0.1" in shown or "bucket" in shown, "the rest of the address is there"


@pytest.mark.parametrize("url", URLS)
def test_errors_have_no_secret(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=1))
    monkeypatch.setattr(patterns, "MAX_EXPANSIONS", 100)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    calls = (
        lambda: storage.put(url, b""),
        lambda: list(storage.list_objects(url)),
        lambda: find_shards(url),
        lambda: find_shards(url + "{0..999}"),
        lambda: find_shards(url + "[z-a]"),
        lambda: Vocabulary.load(url),
    )
    with pytest.raises(LabelerError) as caught:
        storage.read_bytes(url)
    errors: list[LabelerError] = [caught.value]
    for call in calls:
        try:
            call()
        except LabelerError as error:
            errors.append(error)
    assert len(errors) >= 5
    assert not [error for error in errors if SECRET in str(error) + "".join(getattr(error, "problems", ()))]
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"input": url, "output": url, "vocabulary": ["cat"], "extra": url}))
    label = ["label", str(config)]
    for words in ([*label, f"nothing.{url}"], [*label, "unit=" + url], ["status", url], ["label", url]):
        assert main(words) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


def test_the_log_of_second_tries_has_no_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=3, first_s=0.001))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    retries.logger.addHandler(handler)
    try:
        with pytest.raises(LabelerError):
            storage.read_bytes(f"{bucket}/x")
    finally:
        retries.logger.removeHandler(handler)
    assert len(lines) == 2
    assert not any(SECRET in line for line in lines)


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["status", str(tmp_path / "a\x1b[31mred\nlabeler: complete")]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert said.count("\n") == 1


HARD = (
    f"s3://KEY:a/b+{SECRET}/c@bucket/x@2x.tar",
    f"https://me:pa ss '{SECRET}\"@host/x.tar",
    f"https://host/x.tar?sig=a b'{SECRET}\"",
    f"simplecache::ftp://me:a/{SECRET}@host/x.tar",
)


@pytest.mark.parametrize("url", [*URLS, *HARD])
def test_an_address_is_taken_apart_by_its_parts(url: str) -> None:
    shown = storage.redact(url)
    assert SECRET not in shown
    assert storage.redact(shown) == shown
    assert storage.redact(f"{shown}: no such object; check it") == f"{shown}: no such object; check it"


@pytest.mark.parametrize("url", [f"s3://KEY:a/{SECRET}@bucket/x@2x.tar", f"https://h/x?a={SECRET}&b={SECRET}"])
def test_a_message_of_a_library_has_no_secret(url: str) -> None:
    assert SECRET not in storage.redact(f"cannot open {url}: refused, tried '{url}' twice")


@pytest.mark.parametrize(
    "text",
    ["s3://b/photo@2x.jpg", "http://h:8080/d/photo@2x.jpg", "s3://b/what?.jpg", "gs://b/a b.jpg", "a@b: c", "C:/x?y=1"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert storage.redact(text).replace("?...", "?y=1") == text


def test_the_user_of_an_address_is_restored_from_one_of_the_same_host() -> None:
    like = f"ftp://me:{SECRET}@host/runs/a"
    assert storage.restore_user("ftp://***@host/runs/b", like) == f"ftp://me:{SECRET}@host/runs/b"
    for other in ("ftp://***@host2/runs/b", "sftp://***@host/runs/b", "ftp://host/runs/b", "/local"):
        assert storage.restore_user(other, like) == other


def test_what_a_run_notes_of_others_has_no_secret(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0)]})
    for url in (*URLS, *HARD):
        note_made(run, url)
    parent = dataclasses.replace(run, uri=f"ftp://me:{SECRET}@host/run")
    manifest = Manifest.new({}, config={}, versions={}, digests={}, parent=parent)
    assert manifest.parent == {"uri": "ftp://***@host/run", "run_id": run.manifest.run_id}
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert SECRET.encode() not in written
    assert len(read_made(run)) >= len(URLS) - 1


def test_what_is_printed_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with safe_output():
        print(f"name\x1b[2J\tb s3://k:{SECRET}@b/x\nnext")
        logging.getLogger("labeler.x").warning("a \x1b]0;title\x07 https://h/x?sig=%s", SECRET)
        message_console().print(f"c \x1b[31m s3://k:{SECRET}@b/x", markup=False)
    said = capsys.readouterr()
    assert said.out == "name\\x1b[2J\tb s3://***@b/x\nnext\n"
    assert "\x1b" not in said.err
    assert "\x07" not in said.err
    assert SECRET not in said.err
    print("\x1bafter")
    assert capsys.readouterr().out == "\x1bafter\n", "outside of the block nothing is changed"
