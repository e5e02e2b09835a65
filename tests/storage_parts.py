"""What tests of storage look at."""

from __future__ import annotations

from pathlib import Path


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
