"""CUDA graphs on a CPU: what is recorded knows where it reads and writes, and keeps alive only what it made itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Place:
    """A tensor's memory: where it is, not that it stays."""

    storage: StorageWeakRef
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return Place(
            StorageWeakRef(leaf.untyped_storage()), leaf.dtype, leaf.shape, leaf.stride(), leaf.storage_offset()
        )

    def read(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("an illegal memory access was encountered")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


def there(leaf: Any) -> Any:
    return leaf.read() if isinstance(leaf, Place) else leaf


class _Steps(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.own: list[torch.UntypedStorage] = []  # a graph's pool
        self.steps: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        read = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        new = [leaf for leaf in made if leaf.untyped_storage()._cdata not in read]
        self.own += [leaf.untyped_storage() for leaf in new]
        if new or function._schema.is_mutable:  # else a view: it is where it was
            self.steps.append((function, tree_map(Place.of, (args, kwargs or {})), tree_map(Place.of, out)))
        return out


class FakeCapture:
    """A `Capture`. Replaying runs the same operations on the same memory, whatever is there by then.

    Attributes:
        captured: how often it was asked to.
        launches: operations of the last one.
    """

    def __init__(self, fails: Exception | None = None) -> None:
        self.captured, self.launches, self._fails = 0, 0, fails

    def __call__(self, run: Callable[[], Tensor | None]) -> tuple[Tensor | None, Callable[[], object]]:
        self.captured += 1
        if self._fails:
            raise self._fails
        with _Steps() as recorded:
            rows = run()
        self.launches = len(recorded.steps)

        def replay() -> None:
            for function, given, out in recorded.steps:
                args, kwargs = tree_map(there, given)
                results = tree_leaves(function(*args, **kwargs))
                for result, place in zip(results, tree_leaves(out), strict=True):
                    if isinstance(place, Place) and (kept := place.read()).data_ptr() != result.data_ptr():
                        kept.copy_(result)

        return rows, replay
