"""The 80 combinations of a color and a shape, their category ids, and which of them training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labeler.errors import Refused

# RGB different enough to survive jitter, shading and JPEG; backgrounds are pale or grayish, so none is lost on them.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "orange": (250, 132, 16),
    "yellow": (248, 222, 30),
    "green": (34, 150, 50),
    "cyan": (40, 214, 224),
    "blue": (34, 70, 208),
    "purple": (128, 38, 168),
    "pink": (252, 130, 190),
    "brown": (116, 66, 28),
    "black": (22, 22, 26),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow")

# Fixed for good: checkpoints are measured on it. One or two of each color and of each shape, so that every word occurs
# in training, only not these pairs.
_HELD_OUT = (
    "red square",
    "red ring",
    "orange cross",
    "yellow arrow",
    "green triangle",
    "green heart",
    "cyan ring",
    "blue circle",
    "blue cross",
    "purple star",
    "pink heart",
    "pink square",
    "brown triangle",
    "black star",
)


@dataclass(frozen=True)
class Combination:
    """One category of the shapes data set."""

    category_id: int
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def held_out(self) -> bool:
        return self.name in _HELD_OUT


ALL = tuple(
    Combination(1 + i * len(SHAPES) + j, colour, shape)
    for i, colour in enumerate(COLOURS)
    for j, shape in enumerate(SHAPES)
)
HELD_OUT = tuple(c for c in ALL if c.held_out)
SEEN = tuple(c for c in ALL if not c.held_out)


def categories() -> list[dict[str, Any]]:
    """Return all 80 as COCO categories `{id, name, supercategory, held_out}`, ids from 1 in the order of
    vocabulary.txt.
    """
    return [{"id": c.category_id, "name": c.name, "supercategory": c.shape, "held_out": c.held_out} for c in ALL]


def select(which: str | Sequence[str]) -> tuple[Combination, ...]:
    """Combinations by a word ("all", "seen", "held_out") or by their names. Raises Refused for an unknown one."""
    if isinstance(which, str):
        groups = {"all": ALL, "seen": SEEN, "held_out": HELD_OUT}
        if which not in groups:
            raise Refused(f"shapes: no combinations called {which!r}; there are all, seen and held_out")
        return groups[which]
    by_name = {c.name: c for c in ALL}
    unknown = [name for name in which if name not in by_name]
    if unknown or not which:
        raise Refused(f"shapes: no such combinations: {', '.join(unknown) or '(none given)'}; e.g. {ALL[0].name!r}")
    return tuple(by_name[name] for name in which)
