"""The check at the start of networks that run transformers' own forward pass: one synthetic image, in float32 and in
half.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from labeler.detectors.agreement import HALF, agreement, check_picture
from labeler.detectors.network import Encoded, Network, Setup
from labeler.detectors.upload import model_input
from labeler.errors import Refused

log = logging.getLogger(__name__)


def check_start(network: Network[Any, Any], text: Encoded, setup: Setup) -> str:
    """Run the first pass on a synthetic image.

    Returns:
        How half precision compares with float32, in a few words; "" in float32.

    Raises:
        Refused: the model does not run at the size of its images, or gives what is NaN or infinite.
    """
    pixels = model_input(check_picture(), setup.rule, network.device)
    one = text.take(torch.zeros(1, dtype=torch.long, device=network.device))
    half, network.half = network.half, None
    try:
        expected, finite = _found(network, pixels, one)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a config that does not fit the weights makes transformers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Refused(f"checkpoint {setup.name} does not run on images of {setup.rule}: {reason}") from error
    finally:
        network.half = half
    if not finite:
        raise Refused(f"checkpoint {setup.name} gives scores or boxes that are NaN or infinite; are its weights whole?")
    if half is None:
        return ""
    found, _ = _found(network, pixels, one)
    agreed = agreement(expected, found, HALF)
    if not agreed.passed:
        log.warning("%s in %s has %s: model.dtype=float32 is exact", setup.name, str(half).split(".")[-1], agreed)
    return str(agreed)


def _found(network: Network[Any, Any], pixels: Tensor, text: Encoded) -> tuple[tuple[Tensor, Tensor], bool]:
    """Return ((probabilities (candidates, phrases), boxes (candidates, 4) cxcywh), whether all is finite)."""
    image = network.encode_image(pixels)
    if (places := network.positions(image)) < network.candidates:
        raise ValueError(f"they have {places} positions, and the model asks for {network.candidates}")
    scored = network.detect(image, text)
    boxes = scored.boxes[0].float()
    if network.boxes == "xyxy":
        boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    return (scored.scores[0].float(), boxes), bool(scored.finite.all())
