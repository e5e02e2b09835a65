"""Choose the forward pass of a detector: the fast one if its detections are equal and it is not slower."""

from __future__ import annotations

import logging

import torch

from labeler.detectors.graphs import in_a_line
from labeler.detectors.grounding_dino.engine_check import check_engine
from labeler.detectors.grounding_dino.engine_times import EngineTimes, time_engines
from labeler.detectors.grounding_dino.fast import FastForward, kernels_for, why_unsupported
from labeler.detectors.grounding_dino.split_forward import SplitForward, TextFeatures
from labeler.errors import Refused
from labeler.prompts import ImageRule

log = logging.getLogger(__name__)


def choose_engine(
    engine: str, reference: SplitForward, text: TextFeatures, rule: ImageRule, name: str
) -> tuple[SplitForward, str]:
    """Return the forward pass to use, and in a few words what is known of its equality with the reference.

    Args:
        engine: "auto", "fast" or "transformers".
        name: of the checkpoint, for messages.

    Raises:
        Refused: the fast engine was asked for, and does not understand the model or does not run here.
    """
    if engine == "transformers":
        return reference, ""
    unsupported = why_unsupported(reference.detector)
    if unsupported and engine == "fast":
        raise Refused(f"model.engine=fast does not understand {name}: {unsupported}")
    if unsupported:
        log.warning("%s runs on transformers' own forward pass, which is slower: %s", name, unsupported)
        return reference, f"the fast engine does not understand it: {unsupported}"
    problems: list[str] = []
    slower = ""
    for kernels in kernels_for(reference.device):
        fast = FastForward(reference.detector, half=reference.half, kernels=kernels)
        try:
            check = check_engine(fast, rule, text)
            if not (check.passed or engine == "fast"):
                problems.append(f"had {check}")
                continue
            times = _times(engine, fast, reference, text, rule)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # A kernel that cannot be built here: no compiler, an older GPU. (After an illegal access nothing runs
            # in this process any more: then all of them fail, and another process has to begin.)
            problems.append(f"failed with {in_a_line(error)}")
            continue
        if times is not None and not times.fast_stays:
            slower = f"is slower here: {times}"
            problems.append(slower)
            continue
        if check.half and check.theirs is not None:
            _warn_of_half(name, reference, check.matched)
        if problems:
            log.warning(
                "the fast engine runs with torch's own operations, which are slower: its GPU kernels %s. triton builds "
                "them with a C compiler (gcc) and keeps them in TRITON_CACHE_DIR: it needs both",
                "; ".join(problems),
            )
        took = [] if times is None else [f"it takes {times}"]
        return fast, "; ".join([str(check), *took, *(f"its GPU kernels {problem}" for problem in problems)])
    what = f"the fast engine {', then '.join(problems)}"
    if engine == "fast":
        raise Refused(f"model.engine=fast does not run on {reference.device}: {what}")
    log.warning("%s runs on transformers' own forward pass%s: %s", name, "" if slower else ", which is slower", what)
    return reference, what


def _times(
    engine: str, fast: SplitForward, reference: SplitForward, text: TextFeatures, rule: ImageRule
) -> EngineTimes | None:
    """Return what both take on a GPU, None where nothing depends on it: the fast one was never seen to be slower on a
    CPU.
    """
    if engine != "auto" or fast.device.type != "cuda":
        return None
    times = time_engines(fast, reference, text, rule)
    log.info("the fast engine takes %s", times)
    return times


def _warn_of_half(name: str, reference: SplitForward, matched: float) -> None:
    log.warning(
        "%s in %s has %.0f%% of the detections that it has in float32: model.dtype=float32 is exact",
        name,
        str(reference.half).removeprefix("torch."),
        100 * matched,
    )
