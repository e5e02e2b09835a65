"""Which jobs of a cluster are whose."""

from __future__ import annotations

import re
from types import SimpleNamespace

from labeler.submission.jobs import Attempt, attempts_of, run_name


def job(submission_id: str | None, over: bool = True) -> SimpleNamespace:
    return SimpleNamespace(submission_id=submission_id, status=SimpleNamespace(is_terminal=lambda: over))


def test_a_run_is_named_by_its_folder_and_told_apart_by_its_whole_address() -> None:
    name = run_name("s3://bucket/labels/run 1/")
    assert re.fullmatch(r"labeler-run-1-[0-9a-f]{8}", name)
    assert name == run_name("s3://bucket/labels/run 1")
    assert name != run_name("s3://other/labels/run 1")
    assert re.fullmatch(r"labeler-run-[0-9a-f]{8}", run_name("s3://bucket/±/"))
    assert len(run_name("s3://bucket/" + "x" * 300)) < 60


def test_the_attempts_at_a_run_are_counted_and_others_are_left_alone() -> None:
    name = run_name("s3://bucket/a")
    ids = [f"{name}-10", f"{name}-2", f"{name}-2-x", f"{run_name('s3://bucket/b')}-1", None, "raysubmit_1", f"{name}-"]
    found = attempts_of(name, [job(id_, over=id_ != f"{name}-10") for id_ in ids])
    assert [(each.number, each.runs) for each in found] == [(2, False), (10, True)]
    assert Attempt(name, 11).submission_id == f"{name}-11"
    assert not Attempt(name, 11).runs
