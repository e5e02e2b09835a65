"""An image's features, equal to the bit to what transformers' modules make under autocast, with less around products.

Autocast casts every weight in every forward pass (its cache is for weights that learn), and norms hand float32 to
products that cast it. Swin rebuilds masks and biases of its windows that depend only on the image's shape, or on
nothing. Positions, masks and ratios of an image without padding follow from its shape. Here weights are cast once,
norms inside of blocks give halves, and what is known is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from labeler.detectors.grounding_dino.split_forward import ImageFeatures

_MASKS = 8  # shapes of images whose masks are kept: one's take some 8 MB
_POSITIONS = 1024  # shapes of levels whose positions are kept: one's take some 100 kB, and an image has four levels
_READ_BY_PRODUCTS = ("layernorm_before", "layernorm_after", "downsample.norm")


class Backbone:
    """Over the backbone of one loaded model, for images without padding. Use it where products are autocast to `half`.

    Attributes:
        last: what the last call in half precision read of what is kept between calls.
    """

    def __init__(self, model: Any, half: torch.dtype | None) -> None:
        """
        Args:
            model: transformers' GroundingDinoModel or MMGroundingDinoModel, float32.
        """
        self._model = model
        self._whole = (model.backbone.conv_encoder.model, model.input_proj_vision)
        self.last: dict[object, object] = {}
        self._halved = self._whole if half is None else tuple(_in_halves(part, half) for part in self._whole)
        if half is not None:
            self._keep_what_is_known(self._halved[0], half)
        self._axes_of = lru_cache(maxsize=_POSITIONS)(self._make_axes)

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether positions are sines, each along one axis."""
        return type(model.backbone.position_embedding).__name__.endswith("SinePositionEmbedding")

    def __call__(self, pixel_values: Tensor, *, halved: bool) -> ImageFeatures:
        """As `SplitForward.encode_image`, for images that need no padding.

        Args:
            halved: autocast is on, else all is float32.
        """
        encoder, project = self._halved if halved else self._whole
        self.last = {}
        found = list(encoder(pixel_values, return_dict=True).feature_maps)
        maps = [project[level](feature_map) for level, feature_map in enumerate(found)]
        for level in range(len(found), self._model.config.num_feature_levels):
            maps.append(project[level](found[-1] if level == len(found) else maps[-1]))
        shapes = tuple((int(each.shape[-2]), int(each.shape[-1])) for each in maps)
        features = torch.cat([each.float().flatten(2).transpose(1, 2) for each in maps], 1)
        images, positions = features.shape[:2]
        return ImageFeatures(
            features,
            self._positions(shapes, features),
            torch.ones((images, positions), dtype=torch.bool, device=features.device),
            torch.ones((images, len(shapes), 2), device=features.device),
            shapes,
        )

    def _positions(self, shapes: tuple[tuple[int, int], ...], like: Tensor) -> Tensor:
        """Return (1, positions, d): each level's part is written once, from what it has along each axis."""
        out = like.new_empty((1, *like.shape[1:]))
        start = 0
        for level, (height, width) in enumerate(shapes):
            place = out[0, start : start + height * width].view(height, width, -1)
            down, across = self.last["axes", level] = self._axes_of(level, height, width)
            place[..., : down.shape[-1]] = down
            place[..., down.shape[-1] :] = across
            start += height * width
        return out

    def _make_axes(self, level: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return (height, 1, d / 2) and (1, width, d / 2): the level's positions, of which one half goes along each
        axis.
        """
        embed = self._model.level_embed[level]
        everywhere = torch.ones((1, height, width), dtype=torch.bool, device=embed.device)
        made = self._model.backbone.position_embedding(embed, everywhere)[0].permute(1, 2, 0) + embed
        half = made.shape[-1] // 2
        return made[:, :1, :half].clone(), made[:1, :, half:].clone()

    def _keep_what_is_known(self, encoder: nn.Module, half: torch.dtype) -> None:
        """The biases of Swin's windows, and their masks for the last shapes.

        Both are halves, as attention reads their sum. (It is rounded otherwise where a mask's -100 is in it, and there
        nothing is left of it behind a softmax.)
        """
        modules: list[Any] = list(encoder.modules())  # some of their methods are replaced
        for number, module in enumerate(modules):
            if type(module).__name__ == "SwinRelativePositionBias":
                module.forward = lru_cache(maxsize=1)(_then_half(module.forward, half))
            elif type(module).__name__ == "SwinLayer":
                module.get_attn_mask = partial(self._mask, number, lru_cache(maxsize=_MASKS)(module.get_attn_mask))

    def _mask(self, number: int, get: Callable[..., Tensor | None], *given: Any, **options: Any) -> Tensor | None:
        mask = self.last["mask", number] = get(*given, **options)
        return mask


def _in_halves(part: nn.Module, half: torch.dtype) -> Any:
    """Return a copy whose products have halves as weights."""
    copied: Any = copy.deepcopy(part)
    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for key, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, key, nn.Parameter(parameter.detach().to(half), requires_grad=False))
        elif isinstance(module, nn.LayerNorm) and name.endswith(_READ_BY_PRODUCTS):
            module.forward = _then_half(module.forward, half)  # type: ignore[method-assign]
    return copied


def _then_half(call: Callable[..., Tensor], half: torch.dtype) -> Callable[..., Tensor]:
    """Return what it gives, rounded as the product that reads it would round it."""
    return lambda *given: call(*given).to(half)
