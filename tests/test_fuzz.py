"""A short round of every fuzz target, the same each time; `make fuzz` is the long one."""

from __future__ import annotations

import pytest

from tests import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_what_must_hold_holds_for_made_up_and_damaged_bytes(name: str) -> None:
    fuzz.run(name, examples=60, number=1)


def test_a_target_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_two_members(data: bytes) -> None:
        assert data.count(b"ustar") < 2

    monkeypatch.setitem(fuzz.TARGETS, "tar reader", (fails_on_two_members, fuzz.tars))
    with pytest.raises(AssertionError):
        fuzz.run("tar reader", examples=200, number=1)
