"""A real Chromium for tests of pages; without one they are skipped, saying so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import NoChromium, eventually, set_window, slide
from benchmarks.chromium import chromium as start_chromium

__all__ = ["chromium", "eventually", "set_window", "slide"]


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """A headless Chromium of 1280 x 900 that saves downloads there."""
    with ExitStack() as stack:
        try:
            session = stack.enter_context(start_chromium(downloads))
        except NoChromium as missing:
            pytest.skip(str(missing))
        yield session
