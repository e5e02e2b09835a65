"""A real Chromium for tests of pages; without one they are skipped, or fail where one is required (in CI)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import NoChromium, eventually, set_window, slide
from benchmarks.chromium import chromium as start_chromium

__all__ = ["REQUIRE", "chromium", "eventually", "set_window", "slide"]

REQUIRE = "LABELER_REQUIRE_BROWSER"


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """A headless Chromium of 1280 x 900 that saves downloads there."""
    with ExitStack() as stack:
        try:
            session = stack.enter_context(start_chromium(downloads))
        except NoChromium as missing:
            if os.environ.get(REQUIRE):
                pytest.fail(f"{missing} ({REQUIRE} is set)")
            pytest.skip(str(missing))
        yield session
