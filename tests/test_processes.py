from __future__ import annotations

from labeler.processes import Processes
from tests.processes import kill_one_of


def double(shared: str, number: int) -> int:
    return 2 * number


def test_a_process_that_is_killed_while_the_caller_is_busy_loses_no_task() -> None:
    found = []
    with Processes("", 2) as pool:
        for number in pool.map(double, range(20)):
            found.append(number)
            if number == 4:
                kill_one_of(pool)
    assert found == list(range(0, 40, 2))
