"""How a GPU would be used, as far as that can be seen without one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labeler.detectors import GroundingDino, host_copy, upload
from labeler.detectors.cuda import compute_exactly, compute_for_training, share_memory, to_device
from labeler.detectors.preprocess import Prepared
from tests.detector_parts import photo

PRODUCTS = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@pytest.fixture(autouse=True)
def _settings_as_they_were():
    before = [getattr(torch.backends.cuda.matmul, name) for name in PRODUCTS], torch.backends.cudnn.allow_tf32
    yield
    for name, value in zip(PRODUCTS, before[0], strict=True):
        setattr(torch.backends.cuda.matmul, name, value)
    torch.backends.cudnn.allow_tf32 = before[1]


def rounded() -> list[bool]:
    """Which of torch's settings allow less than float32: products, sums of halves, convolutions."""
    matmul = torch.backends.cuda.matmul
    return [*(bool(getattr(matmul, name)) for name in PRODUCTS), torch.backends.cudnn.allow_tf32]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_detector_computes_exactly_in_half_precision_too(checkpoint, dtype) -> None:
    """The float32 reference of the startup check, and the float32 retry, are of a detector in half precision."""
    for name in PRODUCTS:
        setattr(torch.backends.cuda.matmul, name, True)
    torch.backends.cudnn.allow_tf32 = True
    GroundingDino(checkpoint, ["cat"], device="cpu", dtype=dtype, threads=1)
    assert rounded() == [False] * 4


def test_training_may_round_and_what_is_loaded_afterwards_may_not() -> None:
    compute_exactly()
    compute_for_training()
    assert rounded() == [True, False, False, True]
    compute_exactly()
    assert rounded() == [False] * 4


@pytest.mark.parametrize(("part", "expected"), [(0.5, [0.5]), (1.0, []), (2.0, []), (0.0, [])])
def test_workers_that_share_a_gpu_share_its_memory(monkeypatch, part: float, expected: list[float]) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    share_memory(part)
    assert limits == expected


def test_results_are_waited_for_without_a_busy_core(monkeypatch) -> None:
    """torch's events spin unless they are made to block: a core for each worker, which decodes no image meanwhile."""
    made: list[SimpleNamespace] = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            made.append(SimpleNamespace(blocking=blocking, recorded=[], waited=0))

        def record(self, stream: object) -> None:
            made[-1].recorded.append(stream)

        def synchronize(self) -> None:
            made[-1].waited += 1

    class OnGpu:
        """As much of a tensor on a GPU as a copy asks for."""

        device, shape, dtype = torch.device("cuda"), torch.Size([2]), torch.float32

    class Pinned(torch.Tensor):
        def copy_(self, source: object, *, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            assert isinstance(source, OnGpu)
            return self.fill_(7)

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(
        torch, "empty", lambda *a, pin_memory, **k: empty(*a, **k).as_subclass(Pinned) if pin_memory else None
    )
    copy = host_copy.HostCopy(OnGpu())  # type: ignore[arg-type]
    assert made == [SimpleNamespace(blocking=True, recorded=["stream of cuda"], waited=0)]
    assert copy.numpy().tolist() == [7, 7]
    assert made[0].waited == 1


def test_images_of_one_batch_are_copied_once_on_their_way_to_a_gpu(monkeypatch) -> None:
    images = [photo(seed) for seed in range(3)]
    pinned, moved = [], []
    empty = torch.empty
    monkeypatch.setattr(upload, "torch", SimpleNamespace(empty=lambda *a, pin_memory, **k: _noted(
        pinned, pin_memory, empty(*a, **k)), uint8=torch.uint8, device=torch.device, stack=torch.stack))  # fmt: skip
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pytest.fail("a second copy"))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *given, **how: _noted(moved, (given, how), tensor))
    rule = SimpleNamespace(on_device=False)
    prepared = [Prepared(image, *image.shape[:2]) for image in images]
    found = upload.upload(prepared, rule, torch.device("cuda"))  # type: ignore[arg-type]
    assert pinned == [True]
    assert moved == [((torch.device("cuda"),), {"non_blocking": True})]
    np.testing.assert_array_equal(found.numpy(), np.stack(images))


def _noted(notes: list, what: object, result: torch.Tensor) -> torch.Tensor:
    notes.append(what)
    return result


def test_what_goes_to_a_gpu_alone_goes_from_pinned_memory(monkeypatch) -> None:
    moved: list = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *given, **how: _noted(moved, (given, how), tensor))
    assert to_device(torch.zeros(2), torch.device("cuda")).tolist() == [1, 1]
    assert to_device(torch.zeros(2), torch.device("cpu")).tolist() == [0, 0]
    assert [how for _, how in moved] == [{"non_blocking": True}] * 2


def test_the_shapes_of_everyday_photographs_are_all_kept(checkpoint, monkeypatch) -> None:
    """200 photographs have 68 shapes; a cache of 64 that forgets the oldest would keep none of them."""
    detector = GroundingDino(checkpoint, ["cat"], device="cpu", threads=1, engine="fast")
    forward, made = detector.network.forward, []
    of = type(forward._levels_of(((2, 2), (1, 1)))).of
    monkeypatch.setattr(f"{of.__module__}._Levels.of", lambda *given: made.append(given) or of(*given))
    shapes = [((8, width), (4, 4), (2, 2), (1, 1)) for width in range(1, 201)]
    for _ in range(2):
        for shape in shapes:
            forward._levels_of(shape)
    assert len(made) == len(shapes)
