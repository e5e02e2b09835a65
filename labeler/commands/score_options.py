"""The option of commands that read scores: which of a box's scores counts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labeler.labels.chosen_score import ChosenScore
    from labeler.runs import Run

_SCORES = ("score", "score2", "fused")


def add_score(parser: argparse._ActionsContainer, *, fusion: bool = True) -> None:
    """--score, and --fusion where a fused score has to be found in a file."""
    parser.add_argument(
        "--score", choices=_SCORES, default="score",
        help="score of the boxes: the detector's, the second model's of a rescored run, or one that calibrate "
        "fitted to both (default: score)",
    )  # fmt: skip
    if fusion:
        parser.add_argument(
            "--fusion", metavar="FILE",
            help="with --score fused: file that calibrate wrote (default: --thresholds, else RUN/thresholds.yaml)",
        )  # fmt: skip


def read_score(arguments: argparse.Namespace, run: Run) -> ChosenScore:
    """The score that is asked for. Raises Refused if the run does not have it, or no file says how it is fused."""
    from labeler.errors import Refused
    from labeler.labels.chosen_score import FUSED, ChosenScore
    from labeler.runs import layout
    from labeler.runs.fitted_on import fused_score, require_second_scores

    name, fusion = arguments.score, getattr(arguments, "fusion", None)
    if fusion is not None and name != FUSED:
        raise Refused("--fusion is for --score fused")
    require_second_scores(run, name)
    if name != FUSED:
        return ChosenScore(name)
    return fused_score(run, fusion or getattr(arguments, "thresholds", None) or run.path(layout.THRESHOLDS))
