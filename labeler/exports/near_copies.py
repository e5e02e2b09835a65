"""Near-duplicates: images whose perceptual hashes differ in a few bits, found without comparing all with all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

MAX_BITS = 7  # beyond this, different photographs begin to meet
_PAIRS_AT_A_TIME = 4_000_000

Ints = npt.NDArray[np.int64]


def group(
    hashes: npt.NDArray[np.uint64], known: npt.NDArray[np.bool_], groups: npt.NDArray[np.uint64] | None, *, bits: int
) -> Ints:
    """(n,) a number for each image; equal for near-duplicates, for copies of copies, and for members of one group.

    Args:
        hashes: (n,) perceptual hashes.
        known: (n,) which images have one.
        groups: (n,) the group each image belongs to, or None.
        bits: two hashes that differ in at most that many bits are near-duplicates; -1: hashes count for nothing.
    """
    from scipy.sparse import coo_array  # takes half a second to import, and most exports need no groups
    from scipy.sparse.csgraph import connected_components

    nodes = len(hashes)
    edges: list[tuple[Ints, Ints]] = []
    if bits >= 0:
        images = np.flatnonzero(known)
        unique, place = np.unique(hashes[images], return_inverse=True)
        edges.append((images, nodes + place))
        edges += [(nodes + left, nodes + right) for left, right in _near_pairs(unique, bits)]
        nodes += len(unique)
    if groups is not None:
        names, place = np.unique(groups, return_inverse=True)
        edges.append((np.arange(len(hashes)), nodes + place))
        nodes += len(names)
    left, right = (np.concatenate([e[side] for e in edges] or [np.zeros(0, np.int64)]) for side in (0, 1))
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(nodes, nodes))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels[: len(hashes)], np.int64)


def _near_pairs(unique: npt.NDArray[np.uint64], bits: int) -> Iterator[tuple[Ints, Ints]]:
    """Positions of hashes that differ in at most `bits` bits.

    Cut into bits + 1 bands, two such hashes agree in one band at least: only those that share a band are compared.
    """
    edges = np.linspace(0, 64, bits + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (unique >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        sizes = np.diff(np.append(starts, len(order)))
        for left, right in _pairs_within(order, starts, sizes):
            near = np.bitwise_count(unique[left] ^ unique[right]) <= bits
            yield left[near], right[near]


def _pairs_within(order: Ints, starts: Ints, sizes: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs inside each run of `order`, some millions at a time: each member with the one `step` places on."""
    for step in range(1, int(sizes.max(initial=1))):
        long = sizes > step
        counts = sizes[long] - step
        for part in np.array_split(np.arange(len(counts)), -(-int(counts.sum()) // _PAIRS_AT_A_TIME)):
            repeated = np.repeat(starts[long][part], counts[part])
            within = np.arange(len(repeated)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            yield order[repeated + within], order[repeated + within + step]
