"""What an image and its pairs with chunks cost a GPU at least, by arithmetic alone: operations, bytes and kernels.

    python -m benchmarks.predict --output benchmarks/results/predict.json

The forward pass runs on torch's "meta" device, which has shapes and no data. Every operation that would be a kernel is
counted with its reads, writes and products. As long as nothing stays in the cache from kernel to kernel, it takes at
least the larger of bytes over bandwidth and operations over rate. The sum is such a lower bound for kernels that run
one after the other, not a prediction of the time. It ignores launches, gathers that miss the cache, and products below
the peak rate.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.machine import machine
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.fast.kernels import PLAIN, Features, Kernels
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures

STRIDES = (8, 16, 32, 64)
Row = tuple[str, str, float, float, bool]  # see `Counted`


@dataclass(frozen=True)
class Gpu:
    """What was measured on one: operations a second of large half-precision products, bytes a second of large copies.

    `rate_float32` is an estimate.
    """

    rate: float
    bandwidth: float
    rate_float32: float = 50e12


GPUS = {"H100": Gpu(798e12, 3.0e12), "H200": Gpu(788e12, 4.3e12)}


class Counted(TorchDispatchMode):
    """Count kernels, operations and bytes by the open part of the forward pass.

    Attributes:
        rows: one for each kernel: (part, name, operations, bytes, whether the products are halves).
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.part = "rest"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.count(function, args, kwargs, out)
        return out

    def count(self, function: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Add a row for what an operation gave; none for a view."""
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        is_view = function.is_view or any(tensor.untyped_storage()._cdata in storages for tensor in written)
        if written and (function._schema.is_mutable or not is_view):
            operations = _operations(function, args, kwargs or {}, out)
            halves = written[0].dtype in (torch.float16, torch.bfloat16)
            name = function.overloadpacket.__name__
            if name == "baddbmm" and (kwargs or {}).get("beta", 1):  # it is written to the output before the product
                self.kernel("bias copied", [args[0]], written)
            self.rows.append((self.part, name, operations, sum(map(_bytes, read + written)), halves))

    def kernel(self, name: str, read: list[Tensor], written: list[Tensor]) -> None:
        """One kernel that reads and writes each of these once."""
        self.rows.append((self.part, name, 0.0, sum(map(_bytes, read + written)), True))

    def within(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            before, self.part = self.part, part
            try:
                return call(*args, **options)
            finally:
                self.part = before

        return counted


def _operations(function: Any, args: Any, kwargs: Any, out: Any) -> float:
    if function.overloadpacket is torch.ops.aten._addmm_activation:  # missing in torch's own table
        return 2.0 * out.numel() * args[1].shape[1]
    if function.overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # also missing there
        return 4.0 * args[0].numel() * args[1].shape[-2]
    count = flop_registry.get(function.overloadpacket)
    return float(count(*args, **kwargs, out_val=out)) if count else 0.0


def _bytes(tensor: Tensor) -> int:
    """Of what it holds; an axis that is only repeated counts once."""
    repeated = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride == 0]
    count = tensor.numel()
    for size in repeated:
        count //= size
    return count * tensor.element_size()


def counted_kernels(counted: Counted, *, fused: bool) -> Kernels:
    """The kernels between the products: torch's operations one by one, or each as one that touches everything once.

    Sampling is one kernel either way.
    """

    def sample(values: Tensor, raw: Tensor, references: Tensor, grid: Any) -> Tensor:
        out = values.new_empty((len(values), raw.shape[1], values.shape[2] * values.shape[3]))
        counted.kernel("sample", [values, raw, references], [out])
        return out

    def combine(full: Tensor, moved: Tensor, norms: Any = (), position: Tensor | None = None) -> Features:
        found = Features(torch.empty_like(full), torch.empty_like(moved), None if position is None else moved.clone())
        outputs = [part for part in found if part is not None]
        counted.kernel("combine", [full, moved] + ([] if position is None else [position]), outputs)
        return found

    def look(
        vision: Tensor, keys: Tensor, values: Tensor, bias: Tensor, out_bias: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.bmm(vision, keys.transpose(1, 2))
        over_tokens = torch.empty_like(scores)
        counted.kernel("softmax over tokens", [scores, bias], [over_tokens])
        counted.kernel("softmax over positions", [scores], [scores])
        seen = torch.bmm(over_tokens, values + out_bias / heads)
        return seen, scores, scores.new_empty(scores[:, 0].shape, dtype=torch.float32)

    def quietly(call: Callable[..., Any]) -> Callable[..., Any]:
        """Without what it takes to make the outputs on "meta"."""

        def alone(*args: Any) -> Any:
            known = len(counted.rows)
            out = call(*args)
            counted.rows[known:] = [row for row in counted.rows[known:] if row[1] in _NAMES]
            return out

        return alone

    kernels = replace(PLAIN, sample=quietly(sample))
    return replace(kernels, combine=quietly(combine), look=quietly(look)) if fused else kernels


_NAMES = ("sample", "combine", "softmax over tokens", "softmax over positions", "bmm", "add", "div")


@contextmanager
def on_meta(counted: Counted) -> Iterator[None]:
    """torch.autocast knows no "meta"."""
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()), attention_as_one(counted):
        yield


@contextmanager
def as_on_a_gpu(counted: Counted) -> Iterator[None]:
    """What a GPU's autocast does that the CPU's does not: norms are float32."""
    layer_norm, group_norm = functional.layer_norm, functional.group_norm
    with (
        patch.object(functional, "layer_norm", lambda hidden, *given, **how: layer_norm(hidden.float(), *given, **how)),
        patch.object(functional, "group_norm", lambda hidden, *given, **how: group_norm(hidden.float(), *given, **how)),
        attention_as_one(counted),
    ):
        yield


@contextmanager
def attention_as_one(counted: Counted) -> Iterator[None]:
    """Count attention as one kernel, as on a GPU, behind casts of a float32 mask; "meta" would decompose it."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.float32:
            attn_mask = attn_mask.to(query.dtype)
        known = len(counted.rows)
        out = torch.empty_like(query)
        del counted.rows[known:]
        read = [query, key, value] + ([] if attn_mask is None else [attn_mask])
        operations = 4.0 * query.shape[-2] * key.shape[-2] * query.shape[-1] * query.shape[0] * query.shape[1]
        counted.rows.append((counted.part, "attention", operations, sum(map(_bytes, [*read, out])), True))
        return out

    with patch.object(functional, "scaled_dot_product_attention", attention):
        yield


def inputs(pairs: int, height: int, width: int, tokens: int) -> tuple[ImageFeatures, TextFeatures]:
    shapes = tuple((-(-height // stride), -(-width // stride)) for stride in STRIDES)
    positions = sum(rows * columns for rows, columns in shapes)
    with torch.device("meta"):
        image = ImageFeatures(
            torch.empty(pairs, positions, 256),
            torch.empty(1, positions, 256),
            torch.empty(pairs, positions, dtype=torch.bool),
            torch.empty(pairs, 4, 2),
            shapes,
        )
        masks = torch.empty(pairs, tokens, tokens, dtype=torch.bool)
        ids = torch.empty(pairs, tokens, dtype=torch.long)
        return image, TextFeatures(torch.empty(pairs, tokens, 256), masks[:, 0], masks, ids)


def count(pairs: int, height: int, width: int, tokens: int, *, fused: bool) -> list[Row]:
    """Count the kernels of one forward pass of that many pairs, in half precision as on a GPU."""
    with torch.device("meta"):
        model = transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig()).eval().to("meta")
    counted = Counted()
    with on_meta(counted), torch.no_grad():
        forward = FastForward(model, half=torch.float16, kernels=counted_kernels(counted, fused=fused))
        for layer in forward._encoder:
            for field, part in (("fusion", "fusion"), ("deformable", "deformable"), ("feed", "feed-forward")):
                object.__setattr__(
                    layer, field, _Part(getattr(layer, field), counted.within(part, getattr(layer, field)))
                )
        for method, part in (("_encode", "encoder: rest"), ("_propose", "query selection"), ("_decode", "decoder")):
            setattr(forward, method, counted.within(part, getattr(forward, method)))
        image, text = inputs(pairs, height, width, tokens)
        with counted:
            forward.detect(image, text)
    return counted.rows


def count_backbone(height: int, width: int, forward_of: Callable[..., SplitForward], images: int = 1) -> list[Row]:
    """The kernels of some images' backbone as autocast to halves runs it, the second time that it meets this shape.

    On fake tensors of the CPU, whose autocast casts as a GPU's does but for norms, which stay float32 there.

    Args:
        forward_of: the engine's forward.
    """
    counted = Counted()
    counted.part = "image backbone"
    with torch.device("meta"):
        model = transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig())
    forward = forward_of(model.to_empty(device="cpu").eval().requires_grad_(False), half=torch.float16)
    vars(forward)["least_side"] = 1  # which is found by trial
    with as_on_a_gpu(counted), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        pixels = torch.empty(images, 3, height, width)
        forward.encode_image(pixels)
        counted.rows.clear()
        with counted:
            forward.encode_image(pixels)
    return counted.rows


class _Part:
    """A layer's part whose calls are counted as such."""

    def __init__(self, inner: Any, call: Callable[..., Any]) -> None:
        self._inner, self._call = inner, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def floor_of(rows: list[Row], gpu: Gpu, pairs: int) -> dict[str, Any]:
    """Milliseconds a pair by part, and what the whole does."""
    milliseconds: Counter[str] = Counter()
    for part, _, operations, size, halves in rows:
        rate = gpu.rate if halves else gpu.rate_float32
        milliseconds[part] += 1e3 * max(operations / rate, size / gpu.bandwidth) / pairs
    operations = sum(row[2] for row in rows)
    return {
        "ms_a_pair": round(milliseconds.total(), 3),
        "ms_of_products_alone": round(1e3 * operations / gpu.rate / pairs, 3),
        "gigabytes_a_pair": round(sum(row[3] for row in rows) / pairs / 1e9, 3),
        "gigaflop_a_pair": round(operations / pairs / 1e9, 1),
        "kernels": len(rows),
        "parts": {part: round(value, 3) for part, value in milliseconds.most_common()},
    }


def launches(images: int, height: int, width: int, tokens: int) -> dict[str, Any]:
    """Count a forward pass that some images of one shape share, at one chunk, and each image's part of it."""
    backbone = len(count_backbone(height, width, FastForward, images))
    pairs = len(count(images, height, width, tokens, fused=True))
    return {"backbone": backbone, "pairs": pairs, "an image": round((backbone + pairs) / images, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1, help="in one forward pass")
    parser.add_argument("--edges", type=int, nargs=2, default=(800, 1066), help="height and width")
    parser.add_argument("--tokens", type=int, default=256, help="of a chunk")
    parser.add_argument("--images", type=int, nargs="*", default=(1, 2, 4, 8), help="in one forward pass at one chunk")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "gpus": {name: asdict(gpu) for name, gpu in GPUS.items()}}
    for name, forward_of in (("transformers' own", SplitForward), ("the fast engine", FastForward)):
        backbone = count_backbone(*asked.edges, forward_of)
        for gpu in GPUS:
            found = result[f"image backbone, {name}, {gpu}"] = floor_of(backbone, GPUS[gpu], 1)
            print(
                f"{gpu}, image backbone, {name}: at least {found['ms_a_pair']:.2f} ms an image "
                f"({found['ms_of_products_alone']:.2f} for products alone), {found['gigabytes_a_pair']:.2f} GB, "
                f"{found['kernels']} kernels"
            )
    for name, fused in (("torch's operations", False), ("kernels", True)):
        rows = count(asked.pairs, *asked.edges, asked.tokens, fused=fused)
        for gpu in GPUS:
            found = floor_of(rows, GPUS[gpu], asked.pairs)
            result[f"{name}, {gpu}"] = found
            parts = ", ".join(f"{part} {value:.2f}" for part, value in found["parts"].items())
            print(
                f"{gpu}, {name}: at least {found['ms_a_pair']:.2f} ms a pair ({found['ms_of_products_alone']:.2f} for "
                f"products alone), {found['gigabytes_a_pair']:.1f} GB, {found['kernels']} kernels per forward pass"
            )
            print(f"    {parts}")
    for images in asked.images:
        found = result[f"launches at one chunk, {images} images"] = launches(images, *asked.edges, asked.tokens)
        print(f"{images} images in a forward pass, one chunk: {', '.join(f'{n} {what}' for what, n in found.items())}")
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
