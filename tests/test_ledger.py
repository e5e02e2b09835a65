from __future__ import annotations

from labeler.pipeline.ledger import MAX_STARTS, Ledger


def test_a_new_ledger_holds_nothing_unfinished() -> None:
    assert Ledger().unfinished() == []


def test_a_unit_that_never_finishes_is_not_begun_for_ever() -> None:
    ledger = Ledger()
    assert [ledger.begin("000000", 5) for _ in range(MAX_STARTS + 2)] == [True] * MAX_STARTS + [False] * 2
    assert ledger.unfinished() == [("000000", 5, MAX_STARTS)]
    assert ledger.begin("000000", 6), "another unit is not to blame"


def test_a_finished_unit_is_forgotten_and_reset_forgets_all() -> None:
    ledger = Ledger()
    ledger.begin("000000", 1)
    ledger.finish("000000", 1)
    ledger.begin("000000", 2)
    assert ledger.unfinished() == [("000000", 2, 1)]
    ledger.reset()
    assert ledger.unfinished() == []
