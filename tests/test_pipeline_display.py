from __future__ import annotations

import io

import pytest
from rich.console import Console

from labeler.pipeline.blocks import Receipt
from labeler.pipeline.display import Display


def display(**shards: int | None) -> Display:
    return Display(done=5, images_per_shard=shards, console=Console(file=io.StringIO()))


def test_before_anything_came_in_it_shows_what_was_done_earlier() -> None:
    assert display(a=5, b=7).line().startswith("run: images 5/12")


def test_a_total_that_is_not_known_yet_is_a_lower_bound() -> None:
    assert display(a=5, b=None).line().startswith("run: images 5/≥ 5")


def test_the_total_becomes_exact_when_every_shard_ended() -> None:
    shown = display(a=5, b=None)
    shown.receive(Receipt("unit", "b", 0, counts={"labeled": 3, "read_error": 1}, detections=9))
    shown.receive(Receipt("end", "b", shard_images=4))
    shown.receive(Receipt("end", "b", shard_images=4))  # a replayed reader says it twice
    assert shown.line().startswith("run: images 9/9")
    assert "labeled 3, read_error 1, detections 9" in shown.line()


def test_pieces_to_be_repeated_are_counted() -> None:
    shown = display(a=None)
    shown.receive(Receipt("unit", "a", 0, error="timed out"))
    assert shown.line().endswith("failed units 1 (will retry)")


def test_trouble_with_storage_is_printed_once_in_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("labeler.pipeline.display.time.monotonic", lambda: now)
    file = io.StringIO()
    shown = Display(done=0, images_per_shard={}, console=Console(file=file))
    for now in (100.0, 101.0, 650.0, 750.0):  # noqa: B007  # read by `now`
        shown.trouble("expired")
    assert file.getvalue().splitlines() == ["storage is tried again: expired"] * 2


def test_a_unit_that_comes_twice_counts_once_and_after_an_error_too() -> None:
    shown = display(a=7)
    shown.receive(Receipt("unit", "a", 3, error="timed out"))
    for unit in (3, 3, 4, 3):
        shown.receive(Receipt("unit", "a", unit, counts={"labeled": 1}, detections=2))
    assert shown.line().startswith("run: images 7/7")
    assert "labeled 2, detections 4" in shown.line()
