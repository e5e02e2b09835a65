"""A file system of a given size that can be enlarged and made read-only while it is in use."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def remount(self, options: str) -> None:
        """`size=64m`, `ro`, `rw`; tried again while somebody has a file open for writing."""
        for _ in range(6000):
            if not subprocess.run(["mount", "-o", f"remount,{options}", self._folder], check=False).returncode:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self._folder} cannot be remounted with {options}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Skips the test where this user may mount nothing."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
