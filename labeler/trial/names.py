"""Whether the source of names per image knows the input at all, by a look at a few images before a run begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from labeler import storage
from labeler.config import Config
from labeler.errors import Refused
from labeler.labeling.names.of_run import NamesOfRun
from labeler.labeling.names.per_image import NamesSource
from labeler.labeling.resolve import Job
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards import Item, Shard
from labeler.trial.sample import some_items

_SHARDS, _EACH = 5, 4  # that are looked at
_OBJECTS = 100_000  # whose addresses are compared


def require_names(job: Job, source: NamesSource, plan: Sequence[PlannedShard]) -> None:
    """Refuse a source that seems to know none of the images.

    Args:
        source: of the job.

    Raises:
        Refused: none of a few images has names, and another run does not have the objects of the input either.
    """
    if isinstance(source, NamesOfRun) and _has_objects(source, plan):
        return
    items = [item for item in some_items(job.config, plan, shards=_SHARDS, each=_EACH) if _is_read(item)]
    names = source.load()
    if items and all(names.asked(item) is None for item in items):
        raise Refused(_of_others(job.config, len(items)))


def _is_read(item: Item) -> bool:
    return item.data is not None and item.error is None


def _of_others(config: Config, looked_at: int) -> str:
    source = config.prompts.source
    assert source is not None
    if source.run is not None:
        return (
            f"prompts.from: run {storage.redact(source.run)} is over other images: none of {looked_at} looked at is in "
            "it, by digest or by place; name a run over this input"
        )
    return (
        f"prompts.from: none of {looked_at} images looked at has {source.field!r}; name a sidecar by its extension "
        "(txt, json.tags for a field of the .json), or a column of a Parquet file"
    )


def _has_objects(source: NamesOfRun, plan: Sequence[PlannedShard]) -> bool:
    """Return whether the other run has an object of this plan, by the first ones of it."""
    snapshot = source.snapshot()
    ours = set(islice((uri for planned in plan for uri in _objects(planned.shard)), _OBJECTS))
    root = snapshot.run.root.uri
    return any(uri in ours for planned in snapshot.plan for uri in _objects(with_members(planned.shard, root)))


def _objects(shard: Shard) -> Iterator[str]:
    yield from (shard.uri,) if shard.members is None else (member.uri for member in shard.members)
