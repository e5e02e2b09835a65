from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from labeler import storage
from labeler.errors import StorageError
from labeler.pipeline.ledger import MAX_STARTS, Ledger, read_attempts
from tests.label_runs import write_run
from tests.waiting import PATIENCE_S, wait_until


def test_a_new_ledger_holds_nothing_unfinished() -> None:
    assert Ledger().unfinished() == []


def test_a_unit_that_never_finishes_is_not_begun_for_ever() -> None:
    ledger = Ledger()
    assert [ledger.begin("000000", 5) for _ in range(MAX_STARTS + 2)] == [True] * MAX_STARTS + [False] * 2
    assert ledger.unfinished() == [("000000", 5, MAX_STARTS)]
    assert ledger.begin("000000", 6), "another unit is not to blame"


def test_a_finished_unit_is_forgotten_and_reset_forgets_all() -> None:
    ledger = Ledger(earlier={("000000", 1): 2, ("000000", 3): 1})
    ledger.begin("000000", 1)
    ledger.finish("000000", 1)
    ledger.begin("000000", 2)
    assert ledger.unfinished() == [("000000", 2, 1), ("000000", 3, 1)]
    ledger.reset()
    assert ledger.unfinished() == []


def test_a_unit_that_raised_in_two_passes_is_named_unless_it_ended_well() -> None:
    ledger = Ledger()
    for unit in (1, 2):
        ledger.begin("000000", unit)
        ledger.unlabeled("000000", unit)
        ledger.begin("000000", unit)
        ledger.unlabeled("000000", unit)
    assert ledger.unlabeled_again() == [], "twice in one pass may be one worker"
    assert ledger.unfinished() == []
    ledger.reset()
    assert ledger.unlabeled_again() == []
    for unit in (1, 2, 3):
        ledger.begin("000000", unit)
        ledger.unlabeled("000000", unit)
    ledger.begin("000000", 2)
    ledger.finish("000000", 2)
    assert ledger.unlabeled_again() == [("000000", 1)]
    ledger.reset()
    assert ledger.unlabeled_again() == [], "it did not raise in this pass"


def test_starts_of_earlier_sessions_count(tmp_path: Path) -> None:
    """One session after the other dies with its driver, always in the same unit."""
    run = write_run(tmp_path, {}, unfinished=[0])
    for session in range(MAX_STARTS):
        ledger = Ledger(run.path(f"attempts/{session}.json"), read_attempts(run))
        assert ledger.begin("000000", 7)
        assert ledger.begin("000000", 8)
        ledger.finish("000000", 8)
        assert ledger.begin("000000", 9)  # the next start writes what the finished one left behind
        ledger.finish("000000", 9)
    last = Ledger(run.path("attempts/last.json"), read_attempts(run))
    assert not last.begin("000000", 7)
    assert last.begin("000000", 8)
    assert ("000000", 7, MAX_STARTS) in last.unfinished()


def test_a_start_is_on_storage_before_it_is_allowed(tmp_path: Path) -> None:
    journal = tmp_path / "attempts" / "s.json"
    Ledger(str(journal)).begin("000000", 7)
    assert json.loads(journal.read_text()) == {"000000/7": 1}


def test_a_session_that_ends_in_order_leaves_nothing_behind(tmp_path: Path) -> None:
    run = write_run(tmp_path, {}, unfinished=[0])
    ledger = Ledger(run.path("attempts/s.json"))
    ledger.begin("000000", 7)
    ledger.close()
    assert read_attempts(run) == {}


def test_many_callers_share_writes_and_each_start_is_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    gate = threading.Event()

    def put(uri: str, data: bytes) -> None:
        gate.wait(PATIENCE_S)
        writes.append(data)

    monkeypatch.setattr(storage, "put", put)
    ledger = Ledger("anywhere")
    threads = [threading.Thread(target=ledger.begin, args=("000000", unit)) for unit in range(50)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ledger.unfinished()) == 50)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(writes) <= 3, "the first, and one for all who came while it was written"
    assert len(json.loads(writes[-1])) == 50


def test_a_journal_that_cannot_be_written_or_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, {}, unfinished=[0])
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "torn.json").write_text('{"000000/')
    (tmp_path / "attempts" / "list.json").write_text("[]")
    assert read_attempts(run) == {}

    def full(uri: str, data: bytes) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(storage, "put", full)
    assert Ledger(run.path("attempts/s.json")).begin("000000", 1)


def test_one_write_that_fails_answers_all_who_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    gate = threading.Event()
    fails = True

    def put(uri: str, data: bytes) -> None:
        writes.append(data)
        gate.wait(PATIENCE_S)
        if fails:
            raise StorageError("no space left")

    monkeypatch.setattr(storage, "put", put)
    ledger = Ledger("anywhere")
    threads = [threading.Thread(target=ledger.begin, args=("000000", unit)) for unit in range(30)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ledger.unfinished()) == 30)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(writes) == 1
    fails = False
    ledger.begin("000000", 30)
    assert len(json.loads(writes[-1])) == 31, "the next start tries again, and takes along what was not written"


def test_a_worker_that_cannot_start_keeps_still_while_another_may() -> None:
    ledger = Ledger()
    ledger.worker_is_down("a")
    assert ledger.others_work(2, 900), "the other is still loading"
    assert not ledger.others_work(1, 900), "there is no other"
    ledger.worker_is_down("b")
    assert not ledger.others_work(2, 900), "nobody can start: report it at once"
    ledger.worker_is_up("c")
    assert ledger.others_work(2, 900)
    assert not ledger.others_work(2, 0), "it came up, but nothing moves any more"


def test_nobody_waits_for_ever_for_a_worker_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    ledger.worker_is_down("a")
    monkeypatch.setattr("labeler.pipeline.ledger.START_PATIENCE_S", 0.0)
    assert not ledger.others_work(8, 900)


def test_signs_of_work_are_starts_and_ends_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ledger = Ledger()
    ledger.worker_is_up("a")
    for move in (ledger.begin, ledger.finish):
        now += 800
        move("000000", 1)
        ledger.worker_is_down("b")
        assert ledger.others_work(2, 900)
    now += 901
    assert not ledger.others_work(2, 900)


def test_once_a_job_is_about_to_end_nothing_is_begun_and_what_is_at_work_is_counted() -> None:
    ledger = Ledger()
    assert ledger.begin("000000", 1)
    assert ledger.begin_no_more() == 1
    assert ledger.begin("000000", 2) is None
    ledger.finish("000000", 1)
    assert ledger.begin_no_more() == 0


def test_the_workers_of_a_pass_are_counted() -> None:
    ledger = Ledger()
    for worker in ("a", "b", "a"):
        ledger.worker_is_up(worker)
    assert ledger.workers_up() == 2
    ledger.reset()
    assert ledger.workers_up() == 0
