"""One checkpoint of the catalog, as it is declared and as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NOT_RUN = "not run"


@dataclass(frozen=True)
class Figure:
    """A published average precision.

    Attributes:
        benchmark: of it, as `labeler reproduce` names it where it can be reproduced.
        ap: of boxes, 0 to 100.
        protocol: what was done, in a few words.
        source: URL of the publication.
        uncertain: it was not read at its source.
    """

    benchmark: str
    ap: float
    protocol: str
    source: str
    uncertain: bool = False


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint.

    Attributes:
        model_type: config.json's; it says which family the checkpoint is of, if that is known here.
        license: of the weights.
        passes: of the network for an image, with COCO's 80 names and with LVIS's 1,203.
        gflop: of an image with COCO's and with LVIS's names, counted by torch's FlopCounter; None: not counted.
        figures: published.
        note: what else to know before it is taken.
        uncertain: names of the fields above that were not read at their source.
        reproduced: benchmark -> name of a file in benchmarks/results, by `labeler reproduce`.
    """

    model: str
    model_type: str
    licence: str
    passes: tuple[int, int]
    gflop: tuple[float, float] | None = None
    figures: tuple[Figure, ...] = ()
    note: str = ""
    uncertain: tuple[str, ...] = ()
    reproduced: tuple[tuple[str, str], ...] = ()

    def figure(self, benchmark: str) -> Figure | None:
        """Return the first figure for a benchmark: what `labeler reproduce` expects."""
        return next((figure for figure in self.figures if figure.benchmark == benchmark), None)

    def reproduced_as(self, benchmark: str) -> str:
        """Return the file that says how it was reproduced, or `NOT_RUN`."""
        return dict(self.reproduced).get(benchmark, NOT_RUN)


@dataclass(frozen=True)
class ListedModel:
    """An entry of a family that is known here.

    Attributes:
        family: its name.
        model_class: the class in transformers.
        prompts: in what form it is told names.
        score_floor: its `detect.score_floor`, unless the config says another.
    """

    entry: KnownModel
    family: str
    model_class: str
    prompts: str
    score_floor: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `labeler models --json`."""
        entry = self.entry
        return {
            "model": entry.model,
            "family": self.family,
            "model_class": self.model_class,
            "licence": entry.licence,
            "prompts": self.prompts,
            "score_floor": self.score_floor,
            "passes": {"coco": entry.passes[0], "lvis_v1": entry.passes[1]},
            "gflop_per_image": {"coco": entry.gflop[0], "lvis_v1": entry.gflop[1]} if entry.gflop else None,
            "figures": [
                {
                    "benchmark": figure.benchmark,
                    "ap": figure.ap,
                    "protocol": figure.protocol,
                    "source": figure.source,
                    "uncertain": figure.uncertain,
                    "reproduced": entry.reproduced_as(figure.benchmark),
                }
                for figure in entry.figures
            ],
            "note": entry.note,
            "uncertain": list(entry.uncertain),
        }
