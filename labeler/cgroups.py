"""Where the kernel keeps the limits of the control groups that this process belongs to (containers, batch jobs)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of this process's group and of each group above it: all their limits hold at once.

    Args:
        controller: "memory", "cpu" or "pids".
        root: the folder with `proc` and `sys`.
    """
    mounted, paths = root / "sys/fs/cgroup", _own_paths(root)
    for folder in _upward(mounted / controller, paths.get(controller, "")):
        yield 1, folder
    for folder in _upward(mounted, paths.get("", "")):
        yield 2, folder


def _own_paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group below that controller's folder; "" for version 2."""
    paths: dict[str, str] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update((controller, path) for controller in controllers.split(","))
    return paths


def _upward(base: Path, path: str) -> Iterator[Path]:
    """The group and those above it that can be seen: a container may see its own folder as the base."""
    folder = base / path.strip("/")
    if ".." in folder.parts:
        folder = base
    while folder != base:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    if base.is_dir():
        yield base
