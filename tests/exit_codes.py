"""Exit codes of one command, run again and again on a loaded machine: `python -m tests.exit_codes --runs 200`.

Without a command it is `labeler status` of a small run made for it. Busy processes take every core meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.label_runs import row, write_run

ROOT = Path(__file__).parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how often the command ended with each code; return 0 if it was always 0, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.exit_codes", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="of labeler; status of a small run")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, busy(os.cpu_count() or 1):
        words = asked.words or ["status", _small_run(Path(folder) / "run")]
        codes = Counter(_exit_code(words) for _ in range(asked.runs))
    for code, times in sorted(codes.items()):
        print(f"labeler {' '.join(words)}: exit code {code} {times} times")
    return 0 if set(codes) == {0} else 1


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep that many cores busy, at a priority slightly below that of the measured process."""
    command = ["nice", "-n", "5", sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def environment() -> Mapping[str, str]:
    """Return the environment for Pythons that run elsewhere and import from this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _exit_code(words: Sequence[str]) -> int:
    """Return the code; a process that a signal ended has the shell's, 128 and its number."""
    done = subprocess.run(
        [sys.executable, "-m", "labeler", *words], capture_output=True, env=environment(), check=False
    )
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _small_run(folder: Path) -> str:
    """Return the folder of a finished run of three shards and nine units."""
    units = {
        (shard, unit): [row(8 * unit + i, shard=shard) for i in range(8)] for shard in range(3) for unit in range(3)
    }
    write_run(folder, units, uris=[f"s3://b/in/part-{shard}.tar" for shard in range(3)])
    return str(folder)


if __name__ == "__main__":
    sys.exit(main())
