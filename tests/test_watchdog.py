"""The watchdog, in processes of their own: it ends them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import time
from labeler.watchdog import Watchdog

dog = Watchdog({timeout})
def turn():
    {body}
turn()
print("survived")
"""


def run(body: str, timeout: float | None = 0.5) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(timeout=timeout, body=body.replace("\n", "\n    "))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(1.2)",  # idle: nobody is working
        "with dog.working():\n    for _ in range(12): time.sleep(0.1); dog.beat()",
        "with dog.working(): pass\ntime.sleep(1.2)",
        "with dog.working():\n    with dog.working(): pass\n    dog.beat(); time.sleep(0.2)",
    ],
)
def test_who_moves_or_rests_is_left_alone(body: str) -> None:
    ended = run(body)
    assert (ended.returncode, ended.stdout) == (0, "survived\n"), ended.stderr


@pytest.mark.parametrize(
    "body",
    [
        "with dog.working(): time.sleep(20)",
        "with dog.working():\n    with dog.working(): pass\n    time.sleep(20)",  # the outer one still works
        # pow() of such numbers holds the interpreter for minutes: a thread of Python's own could not wake up
        "with dog.working(): 3 ** (10 ** 9)",
    ],
)
def test_who_stands_still_is_ended_and_says_where(body: str) -> None:
    ended = run(body)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in turn" in ended.stderr


def test_without_a_limit_nothing_is_watched() -> None:
    assert run("with dog.working(): dog.beat(); time.sleep(0.8)", timeout=None).returncode == 0
