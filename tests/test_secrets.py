"""No password, key or signature reaches run.json, the log or an error, wherever in the input it stood."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from labeler import storage
from labeler.cli import main
from labeler.config import make_config
from labeler.errors import LabelerError
from labeler.job import public_config
from labeler.shards import find_shards, patterns
from labeler.storage import retries
from labeler.vocabulary import Vocabulary

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
