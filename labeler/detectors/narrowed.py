"""The passes of images that are asked for some names alone: their prompts are encoded once, and kept for the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from labeler.detectors.network import NarrowNetwork, Network
from labeler.detectors.passes import Passes
from labeler.errors import Refused
from labeler.prompts import Family, Narrower, PromptPlan

_SETS = 256  # of names, the last ones used: a prompt of 256 tokens takes some 330 kB


class NarrowedPasses:
    """The passes of each set of categories, by its ids; the least recently used are dropped."""

    def __init__(
        self,
        family: Family,
        network: Network[Any, Any],
        plan: PromptPlan,
        make: Callable[[PromptPlan, Any], Passes[Any, Any]],
    ) -> None:
        """
        Args:
            plan: of all names.
            make: passes of a plan and its text.

        Raises:
            Refused: the family takes all names together.
        """
        if not isinstance(family, Narrower) or not isinstance(network, NarrowNetwork):
            raise Refused(f"prompts.from: the family {family.name} cannot be asked for some of its names alone")
        self._family: Narrower = family
        self._network: NarrowNetwork = network
        self._plan, self._make = plan, make
        self._kept: OrderedDict[tuple[int, ...], Passes[Any, Any]] = OrderedDict()

    def __call__(self, asked: tuple[int, ...]) -> Passes[Any, Any]:
        """Return the passes for these categories; under `torch.inference_mode()`."""
        found = self._kept.get(asked)
        if found is None:
            plan = self._family.narrow(self._plan, asked)
            found = self._kept[asked] = self._make(plan, self._network.encode_names(plan))
        self._kept.move_to_end(asked)
        if len(self._kept) > _SETS:
            self._kept.popitem(last=False)
        return found

    def count(self, asked: tuple[int, ...]) -> int:
        """Return how many passes they are; nothing is encoded for that."""
        found = self._kept.get(asked)
        return self._family.narrow(self._plan, asked).passes if found is None else found.passes
