"""What a test file takes that a small machine has little of, read off its own text and that of its helpers."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
# Also in programs that a test keeps in a string, so it is the text that counts, not what is imported.
_SIGNS = {
    "ray": re.compile(r"\blocal_ray\b|\bray\.(init|scripts|cluster_utils)\b"),
    "browser": re.compile(r"\bbenchmarks\.chromium\b"),
    "torch": re.compile(
        r"\b(import|from) torch\b|\blabeler\.(detectors|segmenters)\b|\b(checkpoint|mm_folder): Path\b"
    ),
    "triton": re.compile(r"\bimport triton\b|\bTRITON_INTERPRET\b"),
}
NEEDS = tuple(_SIGNS)
_HELPER = re.compile(r"\b(?:from|import) (?:tests\.)?(\w+)")
_FOR_EVERYBODY = {"conftest", "needs"}  # they name all of these, and need none


@cache
def needs_of(name: str) -> frozenset[str]:
    """Which of `NEEDS` a module of tests/ has, by its name: does it start Ray or a browser, compute with torch?"""
    seen: set[str] = set(_FOR_EVERYBODY)
    found, left = set(), [name]
    while left:
        module = left.pop()
        file = HERE / f"{module}.py"
        if module in seen or not file.exists():
            continue
        seen.add(module)
        text = file.read_text()
        found |= {need for need, sign in _SIGNS.items() if sign.search(text)}
        left += _HELPER.findall(text)
    return frozenset(found)
