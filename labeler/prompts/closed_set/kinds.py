"""What differs between model types with labels of their own: their scores, and the defaults of their images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from labeler.errors import Refused
from labeler.prompts.image_rule import ImageRule, edges_of, rule_from

_TIMM = ("timm_backbone", "timm_wrapper")
_COCO_EDGES = (800, 1333)  # what transformers' processors of the DETR line take by default


def _any_side(config: Mapping[str, Any]) -> int:
    return 1


def _largest_stride(config: Mapping[str, Any]) -> int:
    """Features of neighboring levels are added, so each level's sides must divide evenly."""
    return int(max(config.get("feat_strides") or [32]))


def _windows(config: Mapping[str, Any], patch: int, windows: int, *, squared: bool) -> int:
    """Return pixels of a row of patches, one for each window of attention; defaults are transformers'."""
    backbone = config.get("backbone_config") or {}
    count = int(backbone.get("num_windows") or windows)
    return int(backbone.get("patch_size") or patch) * (math.isqrt(count) if squared else count)


@dataclass(frozen=True)
class Kind:
    """A model type.

    Attributes:
        architecture: the name of its class in transformers.
        softmax: scores are a softmax over all labels with "no object" as the last column; else a sigmoid of each.
        fit: of its image processor where that says no size.
        normalized: whether that normalizes by default.
        multiple: from its config, what the sides of its images have to be multiples of.
        cut: sides of images that keep their shape are rounded down to a multiple of this, as its processor does.
        timm: its backbone is timm's where the config does not say.
    """

    architecture: str
    softmax: bool = False
    fit: Literal["edges", "stretch"] = "edges"
    normalized: bool = True
    multiple: Callable[[Mapping[str, Any]], int] = _any_side
    cut: int = 1
    timm: bool = False


def _detr(architecture: str, *, softmax: bool = False) -> Kind:
    return Kind(architecture, softmax=softmax, timm=True)


def _rt_detr(architecture: str) -> Kind:
    return Kind(architecture, fit="stretch", normalized=False, multiple=_largest_stride)


KINDS = {
    "detr": _detr("DetrForObjectDetection", softmax=True),
    "table-transformer": _detr("TableTransformerForObjectDetection", softmax=True),
    "conditional_detr": _detr("ConditionalDetrForObjectDetection"),
    "dab-detr": _detr("DabDetrForObjectDetection"),
    "deformable_detr": _detr("DeformableDetrForObjectDetection"),
    "yolos": Kind("YolosForObjectDetection", softmax=True, cut=16),
    "rt_detr": _rt_detr("RTDetrForObjectDetection"),
    "rt_detr_v2": _rt_detr("RTDetrV2ForObjectDetection"),
    "d_fine": _rt_detr("DFineForObjectDetection"),
    "deimv2": _rt_detr("Deimv2ForObjectDetection"),
    "rf_detr": Kind("RfDetrForObjectDetection", multiple=lambda config: _windows(config, 14, 4, squared=False)),
    "lw_detr": Kind("LwDetrForObjectDetection", multiple=lambda config: _windows(config, 16, 16, squared=True)),
}


def kind_of(config: Mapping[str, Any]) -> Kind:
    """Return the kind that a config.json says; KeyError where it is of none."""
    named = (config.get("architectures") or [None])[0]
    by_architecture = {kind.architecture: kind for kind in KINDS.values()}
    return by_architecture[named] if named in by_architecture else KINDS[config["model_type"]]


def image_rule(kind: Kind, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
    """Return how a checkpoint wants its images.

    Args:
        processor: its image processor's settings, {} where it has none: transformers' defaults hold then.
        name: of the checkpoint, for refusals.

    Raises:
        Refused: labeler cannot make such images, or the model cannot take them.
    """
    if not processor.get("do_resize", True) or (processor.get("do_pad", True) and processor.get("pad_size")):
        raise Refused(
            f"checkpoint {name}: images that keep their size or are padded to one (do_resize, pad_size) are not "
            "supported; set a size in its preprocessor_config.json"
        )
    settings = {"do_normalize": kind.normalized, **processor}
    multiple, size = kind.multiple(config), processor.get("size")
    stretched = _stretched(size) if size is not None else ((640, 640) if kind.fit == "stretch" else None)
    if stretched is None:
        edges = edges_of(processor, name, _COCO_EDGES)
        return rule_from(settings, name, "edges", edges, multiple=math.lcm(multiple, kind.cut))
    if any(side % multiple for side in stretched):
        raise Refused(
            f"checkpoint {name}: its images are {stretched[0]} x {stretched[1]} pixels, and the model takes sides that "
            f"are multiples of {multiple}; correct the size in its preprocessor_config.json"
        )
    return rule_from(settings, name, "stretch", stretched)


def _stretched(size: Any) -> tuple[int, int] | None:
    """Return (height, width) of a processor's size, None where it is of another form."""
    try:
        return int(size["height"]), int(size["width"])
    except (KeyError, TypeError, ValueError):
        return None


def refuse_timm(kind: Kind, config: Mapping[str, Any], name: str) -> None:
    """Raise Refused where the checkpoint's backbone is one of timm's: transformers would import that."""
    backbone = config.get("backbone_config")
    if isinstance(backbone, Mapping):
        needed = backbone.get("model_type") in _TIMM
    else:
        needed = bool(config.get("use_timm_backbone", kind.timm) or (not kind.timm and config.get("backbone")))
    if needed:
        raise Refused(
            f"checkpoint {name} takes its image backbone from timm, which labeler does not use; use one saved with "
            "transformers' own backbone (of facebook/detr-resnet-50 model.revision=no_timm), or an RT-DETR or D-FINE "
            "checkpoint"
        )
