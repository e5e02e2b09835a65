"""What tests of storage look at."""

from __future__ import annotations

from pathlib import Path


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def require_same(folder: Path, other: Path) -> None:
    """Require equal names of files and folders, and equal bytes."""
    assert files_below(folder) == files_below(other)
    for name in files_below(other):
        if (other / name).is_file():
            assert (folder / name).read_bytes() == (other / name).read_bytes(), name
