"""How a checkpoint wants its images: to which size, with which filter, and how their pixels are normalized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from labeler.errors import Refused

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BILINEAR = 2  # Pillow's number
GAUSSIAN = -1  # not one of Pillow's


@dataclass(frozen=True)
class ImageRule:
    """From any upright image to the pixels that a model takes.

    Attributes:
        fit: "edges": the shortest edge becomes the first of `size`, unless the longest would pass the second;
            "stretch": height and width become those of `size`; "square": the longest edge becomes the first of `size`,
            and the rest of the square, to the right and below, is filled with `pad`; "none": they stay as they are.
        size: pixels, as `fit` says.
        multiple: of "edges": sides are rounded down to a multiple of it.
        pad: level of what is filled, 0 to 255, in each channel.
        resample: Pillow's number of the filter; or `GAUSSIAN`, of "square": a Gaussian filter and linear interpolation,
            of the image in its filled square, in float32 and on the detector's device.
        scale, mean, std: normalized = (pixel * scale - mean) / std, per RGB channel.
    """

    fit: Literal["edges", "stretch", "square", "none"]
    size: tuple[int, int]
    multiple: int = 1
    pad: int = 0
    resample: int = BILINEAR
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.fit == "edges" and not 0 < self.size[0] <= self.size[1]:
            raise Refused(
                f"image_size is (shortest edge, longest edge) in pixels, 0 < shortest <= longest; got {self.size}"
            )
        if min(self.size) < 1 and self.fit != "none":
            raise Refused(f"the size of an image is at least 1 x 1 pixels; got {self.size}")

    @property
    def on_device(self) -> bool:
        """Return whether images are resized where the detector is, instead of by the threads that decode them."""
        return self.resample == GAUSSIAN

    def with_edges(self, edges: tuple[int, int] | None) -> ImageRule:
        """Return the rule with another (shortest, longest) edge in pixels; None leaves it. Refused where it has no
        edges.
        """
        if edges is None:
            return self
        if self.fit != "edges":
            raise Refused(f"image_size cannot be chosen: the model takes images of {self}; leave it out")
        return replace(self, size=(int(edges[0]), int(edges[1])))

    def require_resize(self, resize: str, name: str) -> None:
        """
        Args:
            resize: `detect.resize`.
            name: of the checkpoint, for the refusal.

        Raises:
            Refused: if torch has no kernel for the rule's filter.
        """
        if resize == "torch" and self.resample != BILINEAR:
            raise Refused(f"detect.resize=torch: checkpoint {name} does not resize bilinearly; leave it out")

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) that an upright image of this size is resized to, without what is filled beside it."""
        if self.fit == "none":
            return height, width
        if self.fit == "stretch":
            return self.size
        if self.fit == "square":
            factor = self.size[0] / max(height, width)
            return max(1, round(height * factor)), max(1, round(width * factor))
        new_height, new_width = resized_shape(height, width, *self.size)
        if self.multiple == 1:
            return new_height, new_width
        return tuple(max(side - side % self.multiple, self.multiple) for side in (new_height, new_width))  # type: ignore[return-value]

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the model's input for an upright image of this size."""
        return (self.size[0], self.size[0]) if self.fit == "square" else self.target(height, width)

    def frame(self, height: int, width: int) -> tuple[float, float]:
        """Return (height, width) of the model's input in pixels of the upright image: what parts of the input are parts
        of.
        """
        if self.fit != "square":
            return height, width
        if self.on_device:  # filled first, then resized: nothing is rounded to whole pixels
            return max(height, width), max(height, width)
        (new_height, new_width), (whole_height, whole_width) = self.target(height, width), self.canvas(height, width)
        return height * whole_height / new_height, width * whole_width / new_width

    def __str__(self) -> str:
        if self.fit == "none":
            return "any size"
        if self.fit == "edges":
            return f"shortest edge {self.size[0]}, longest {self.size[1]} pixels"
        if self.fit == "square":
            return f"longest edge {self.size[0]} pixels, filled up to a square"
        return f"{self.size[0]} x {self.size[1]} pixels (height x width)"


AS_THEY_ARE = ImageRule("none", (0, 0))


def resized_shape(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """Return (height, width) after resizing: the shorter side becomes `shortest_edge` unless the longer would pass the
    limit.

    The rounding is that of transformers' image processors (`get_size_with_aspect_ratio`): the shorter side is rounded,
    the longer truncated, and where the limit applies the longer follows from the shorter side before its rounding. A
    side never becomes 0, where theirs would fail.
    """
    short, long = min(height, width), max(height, width)
    exact_short = float(shortest_edge)
    if long / short * shortest_edge > longest_edge:
        exact_short = longest_edge * float(short) / long
    new_short = round(exact_short)
    # The order of operations is theirs: another order truncates to one pixel less for some sizes.
    new_long = long if new_short == short else int(exact_short * long / short)
    new_short, new_long = max(new_short, 1), max(new_long, 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def mean_and_std(processor: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per RGB channel, from an image processor's settings; ImageNet's where they are not said.

    Args:
        name: of the checkpoint, for the refusal.
    """
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = tuple(float(value) for value in processor.get("image_mean") or IMAGENET_MEAN)
    std = tuple(float(value) for value in processor.get("image_std") or IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise Refused(f"checkpoint {name}: image_mean and image_std are three values each, std > 0; got {mean}, {std}")
    return mean, std


def resample_of(processor: Mapping[str, Any], name: str) -> int:
    """Pillow's number of the filter that an image processor resizes with; bilinear where it does not say."""
    resample = processor.get("resample")
    if resample is None:
        return BILINEAR
    if not isinstance(resample, int) or resample not in range(6):
        raise Refused(f"checkpoint {name}: resample is Pillow's number of a filter, 0 to 5; got {resample!r}")
    return resample


def edges_of(processor: Mapping[str, Any], name: str, default: tuple[int, int]) -> tuple[int, int]:
    """Return (shortest, longest) edge in pixels of an image processor's settings; `default` where they say no size.

    Args:
        name: of the checkpoint, for the refusal.
    """
    size = processor.get("size")
    if size is None:
        return default
    if isinstance(size, int):  # the older form: size and max_size
        return size, int(processor.get("max_size") or max(size, default[1]))
    try:
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except (KeyError, TypeError, ValueError):
        raise Refused(
            f"checkpoint {name}: its image size is {size!r}; needed are a shortest_edge and a longest_edge in pixels"
        ) from None


def rule_from(
    processor: Mapping[str, Any],
    name: str,
    fit: Literal["edges", "stretch", "square"],
    size: tuple[int, int],
    *,
    multiple: int = 1,
) -> ImageRule:
    """Return a rule with the filter, the scale and the normalization of an image processor's settings.

    Args:
        name: of the checkpoint, for refusals.
    """
    mean, std = mean_and_std(processor, name)
    resample, scale = resample_of(processor, name), scale_of(processor)
    return ImageRule(fit, size, multiple, resample=resample, scale=scale, mean=mean, std=std)


def scale_of(processor: Mapping[str, Any]) -> float:
    """Return what pixels are multiplied with before they are normalized, from an image processor's settings."""
    return float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
