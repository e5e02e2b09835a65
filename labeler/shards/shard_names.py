"""A name for each shard that is unique in its plan: the shortest end of its path, its base name where that will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from labeler import storage
from labeler.shards.units import Shard


def name_shards(shards: Sequence[Shard], *, planned: Iterable[str] = (), taken: Collection[str] = ()) -> list[Shard]:
    """Return the shards with their names; groups of image files have none.

    Args:
        planned: URIs of an earlier plan. Their names do not change, but new ones are told apart from them.
        taken: names of that plan.
    """
    paths = {shard.uri: _segments(shard.uri) for shard in shards if shard.members is None}
    everybody = {**paths, **{uri: _segments(uri) for uri in planned}}
    names: dict[str, str] = {}
    used = set(taken)
    for length in range(1, max(map(len, paths.values()), default=0) + 1):
        ends = Counter("/".join(path[-length:]) for path in everybody.values() if len(path) >= length)
        for uri, path in paths.items():
            name = "/".join(path[-length:])
            if uri not in names and len(path) >= length and ends[name] == 1 and name not in used:
                names[uri] = name
        used.update(names.values())
    return [
        shard if shard.members is not None else replace(shard, name=names.get(shard.uri) or _last_resort(shard, used))
        for shard in shards
    ]


def _segments(uri: str) -> list[str]:
    """The path's parts, a bucket or host first. What follows the `?` of a web address is left out: it may be secret."""
    path = storage.path_of(uri)
    return [part for part in path.removeprefix(f"{storage.scheme(uri)}://").split("/") if part] or [path]


def _last_resort(shard: Shard, used: Collection[str]) -> str:
    """For two addresses that differ in their scheme or query alone."""
    name = f"{shard.shard_id}/{_segments(shard.uri)[-1]}"
    while name in used:
        name = f"{shard.shard_id}/{name}"
    return name
