"""The watchdog, in processes of their own: it ends them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.waiting import PATIENCE_S

PROGRAM = """
import time
from labeler.labeling.watchdog import Watchdog

dog = Watchdog({timeout})
def turn():
    {body}
turn()
print("survived")
"""


def run(body: str, timeout: float | None) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(timeout=timeout, body=body.replace("\n", "\n    "))
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_who_moves_or_rests_is_left_alone() -> None:
    """The limit is long enough that a busy machine does not look like a stall."""
    bodies = [
        "time.sleep(5)\nwith dog.working(): pass",  # idle: nobody is working yet,
        "with dog.working(): pass\ntime.sleep(5)",  # or anymore
        "with dog.working():\n"
        "    end = time.monotonic() + 5\n"
        "    while time.monotonic() < end:\n"
        "        with dog.working(): time.sleep(0.05)\n"
        "        dog.beat()",
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:  # they mostly sleep
        for ended in pool.map(lambda body: run(body, timeout=4.5), bodies):
            assert (ended.returncode, ended.stdout) == (0, "survived\n"), ended.stderr


@pytest.mark.parametrize(
    "body",
    [
        "with dog.working(): time.sleep(600)",
        "with dog.working():\n    with dog.working(): pass\n    time.sleep(600)",  # the outer one still works
        # pow() of such numbers holds the interpreter for minutes: a thread of Python's own could not wake up
        "with dog.working(): 3 ** (10 ** 9)",
    ],
)
def test_who_stands_still_is_ended_and_says_where(body: str) -> None:
    ended = run(body, timeout=0.5)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in turn" in ended.stderr


def test_without_a_limit_nothing_is_watched() -> None:
    assert run("with dog.working(): dog.beat(); time.sleep(0.8)", timeout=None).returncode == 0
