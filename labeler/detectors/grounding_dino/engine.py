"""Which forward a detector runs on: the fast one where it comes out equal, else the reference."""

from __future__ import annotations

import logging

import torch

from labeler.detectors.graphs import in_a_line
from labeler.detectors.grounding_dino.engine_check import check_engine
from labeler.detectors.grounding_dino.fast import FastForward, kernels_for, why_unsupported
from labeler.detectors.grounding_dino.split_forward import SplitForward, TextFeatures
from labeler.errors import Refused
from labeler.prompts import ImageRule

log = logging.getLogger(__name__)


def choose_engine(
    engine: str, reference: SplitForward, text: TextFeatures, rule: ImageRule, name: str
) -> tuple[SplitForward, str]:
    """The forward to use, and in a few words what is known of its equality with the reference.

    Args:
        engine: "auto", "fast" or "transformers".
        name: of the checkpoint, for what is said.

    Raises:
        Refused: the fast engine was asked for, and does not understand the model or does not run here.
    """
    if engine == "transformers":
        return reference, ""
    unsupported = why_unsupported(reference.detector)
    if unsupported and engine == "fast":
        raise Refused(f"model.engine=fast does not understand {name}: {unsupported}")
    if unsupported:
        log.warning("%s runs on transformers' own forward, which is slower: %s", name, unsupported)
        return reference, f"the fast engine does not understand it: {unsupported}"
    problems = []
    for kernels in kernels_for(reference.device):
        fast = FastForward(reference.detector, half=reference.half, kernels=kernels)
        try:
            check = check_engine(fast, rule, text)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # A kernel that cannot be built here: no compiler, an older GPU. (After an illegal access nothing runs
            # in this process any more: then all of them fail, and another process has to begin.)
            problems.append(f"failed with {in_a_line(error)}")
            continue
        if check.passed or engine == "fast":
            if check.theirs is not None:
                log.warning(
                    "%s in %s has %.0f%% of the detections that it has in float32: model.dtype=float32 is exact",
                    name,
                    str(reference.half).removeprefix("torch."),
                    100 * check.matched,
                )
            return fast, "; ".join([str(check), *(f"its GPU kernels {problem}" for problem in problems)])
        problems.append(f"had {check}")
    what = f"the fast engine {', then '.join(problems)}"
    if engine == "fast":
        raise Refused(f"model.engine=fast does not run on {reference.device}: {what}")
    log.warning("%s runs on transformers' own forward, which is slower: %s", name, what)
    return reference, what
