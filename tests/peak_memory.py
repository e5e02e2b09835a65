"""Peak memory of one piece of work, measured by the kernel in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """What the work returned, and the most resident memory it had, in bytes above what was resident before it."""

    result: object
    above: int


def measure(target: str, *arguments: str, timeout_s: float = PATIENCE_S) -> Peak:
    """Run `target` ("tests.module:function") in a fresh process.

    The function prepares with its arguments (imports, warming up, reading files) and returns the work itself, a
    callable without arguments whose result can be written as JSON. The kernel's own high-water mark is read, so that
    what C libraries allocate counts.
    """
    command = [sys.executable, "-m", "tests.peak_memory", target, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{target} ended with {done.returncode}: {done.stderr[-2000:]}"
    said = json.loads(done.stdout.splitlines()[-1])
    return Peak(said["result"], said["above"])


def _main(target: str, *arguments: str) -> None:
    module, _, name = target.partition(":")
    work: Callable[[], object] = getattr(import_module(module), name)(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts again at what is resident now; see proc(5)
    before = _status("VmRSS")
    result = work()
    print(json.dumps({"result": result, "above": _status("VmHWM") - before}))


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    _main(*sys.argv[1:])
