"""Find the shards under a URI: tars, Parquet files, or image files frozen in groups."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from labeler import storage
from labeler.ahead import IN_FLIGHT
from labeler.errors import Refused, StorageError
from labeler.shards import skipped
from labeler.shards.find_streamed import others_of, stream
from labeler.shards.listing import Listed, common_folder, list_all, path_below, repeated, shown_uris
from labeler.shards.look_inside import images_among, with_images
from labeler.shards.names import has_extension, is_compressed_tar, is_hidden, kind_of, name_shards
from labeler.shards.nothing import describe_nothing
from labeler.shards.reading import count_images, count_tar_images
from labeler.shards.units import Format, Member, Shard

log = logging.getLogger(__name__)
IMAGES_PER_GROUP = 2048
_SHARDS = ("webdataset", "parquet")
_ANY = "a tar, Parquet or image file"
_NOUNS = {"webdataset": "tars", "parquet": "Parquet files", "images": "image files"}


def find_shards(
    uri: str | Sequence[str],
    *,
    format: Format | None = None,
    limit: int | None = None,
    images_per_group: int = IMAGES_PER_GROUP,
    image_column: str | None = None,
    skip_without_images: bool = False,
    known: Collection[str] = (),
    taken: Collection[str] = (),
    first_id: int = 0,
    counts: Counter[str] | None = None,
    inventory: Sequence[str] = (),
) -> list[Shard]:
    """Return the shards of an input, sorted by URI, numbered from `first_id`.

    Args:
        uri: a folder (with all below it), a glob, a brace pattern, one file, or a list of those. What is there under
            exactly its name is taken; `[{]` and `[[]` are a brace and a bracket of a name. Names that start
            with "." are excluded, with "_" too unless they are image files; what is named in full is always taken.
        format: None decides by the names, which must be of one kind.
        limit: only the first that many images in the order of the shards, 1 or more.
        images_per_group: image files in one shard.
        skip_without_images: continue without Parquet files that have no image column.
        known: URIs of shards, or of image files, that an earlier plan has: they are excluded.
        taken: names of shards that an earlier plan has.
        counts: gets, by extension, the number of files that are not part of the input (`shards.skipped`).
        inventory: tables of what is there (`shards.inventory`), read in the place of a listing; image files keep its
            order. Then `uri` has folders alone.

    Raises:
        Refused: nothing found, mixed or unknown kinds, no such bucket or file, no permission; one line.
    """
    counts = Counter() if counts is None else counts
    uris = [uri] if isinstance(uri, str) else list(uri)
    try:
        streamed = stream(uris, inventory, format, limit, images_per_group, known)
        if streamed is not None:
            counts.update(streamed.beside)
            if (streamed.images or streamed.known) and format in (None, "images"):
                return _numbered(streamed.groups, first_id)
        unreadable: dict[str, str] = {}
        listed, roots = others_of(streamed, uris) if streamed else list_all(uris, unreadable.__setitem__)
        _warn_of_unreadable(unreadable)
        planned = frozenset(known)
        found = _unique(listed, planned)
        nameless = _images_without_names(found, format, planned)
        if not found:
            raise Refused(describe_nothing(uris, listed, found, _ANY))
        kind = _choose_format(found, format, uris, nameless)
        of_kind = _of_kind(found, kind, format, uris, nameless)
        chosen = [each for each in of_kind if each.info.uri not in planned]
        _refuse_unprintable(chosen)
        _count_others(listed, found, of_kind, len(unreadable), counts)
        if kind == "images":
            shards = _groups(chosen, images_per_group, common_folder(roots), planned)
        else:
            shards = [Shard("", each.info.uri, each.info.size, each.info.etag, kind) for each in chosen]
        if kind == "parquet":
            check = partial(with_images, image_column=image_column, counts=counts, skip=skip_without_images)
            shards = check(shards) if limit is None else _checked_up_to(shards, limit, check)
        shards = _numbered(shards, first_id)
        shards = name_shards(shards, planned=planned if kind != "images" else (), taken=taken)
        return shards if limit is None else list(_first_images(shards, limit))
    except StorageError as error:
        raise Refused(f"input cannot be read: {error}") from error


def _numbered(shards: Sequence[Shard], first_id: int) -> list[Shard]:
    return [replace(shard, shard_id=f"{first_id + number:06d}") for number, shard in enumerate(shards)]


def _warn_of_unreadable(unreadable: Mapping[str, str]) -> None:
    """Log one line about the entries of the input that could not be listed."""
    if unreadable:
        uri, reason = min(unreadable.items())
        entries = "entry" if len(unreadable) == 1 else "entries"
        example = storage.printable(f"{storage.redact(uri)} ({reason})")
        log.warning("skipped %d unreadable %s of the input, for example %s", len(unreadable), entries, example)


def _unique(found: Iterable[Listed], planned: Collection[str]) -> list[Listed]:
    """Return sorted by URI; an object that several patterns name, or links lead to in several ways, stands once."""
    by_uri: dict[str, Listed] = {}
    for each in found:
        before = by_uri.setdefault(each.info.uri, each)
        if each.is_named and not before.is_named:
            by_uri[each.info.uri] = each
    visible = {uri: each for uri, each in by_uri.items() if each.is_named or not is_hidden(each.relative)}
    kept = {uri for uri, each in visible.items() if each.is_named or uri in planned}
    again = repeated(visible, kept)
    return sorted((each for uri, each in visible.items() if uri not in again), key=lambda each: each.info.uri)


def _images_without_names(found: Sequence[Listed], format: Format | None, planned: Collection[str]) -> set[str]:
    """Return the URIs of image files without an image extension: those planned before, and those
    that begin like one.
    """
    if format not in (None, "images") or (format is None and any(kind_of(e.info.uri) in _SHARDS for e in found)):
        return set()
    without = [each.info for each in found if not has_extension(each.info.uri)]
    before = {info.uri for info in without if info.uri in planned}
    return before | images_among([info for info in without if info.uri not in before])


def _count_others(
    listed: Iterable[Listed], found: Iterable[Listed], of_kind: Iterable[Listed], unreadable: int, counts: Counter[str]
) -> None:
    """Count what is beside the input's own files."""
    ours = {each.info.uri for each in of_kind}
    hidden = {each.info.uri for each in listed if not each.is_named and is_hidden(each.relative)}
    for each in found:
        if each.info.uri not in ours:
            skipped.count(counts, each.info.uri)
    counts.update({skipped.HIDDEN: len(hidden - ours), skipped.UNREADABLE: unreadable})
    for kind in (skipped.HIDDEN, skipped.UNREADABLE):
        if not counts[kind]:
            del counts[kind]


def _choose_format(
    found: Sequence[Listed], format: Format | None, uris: Sequence[str], nameless: Collection[str]
) -> Format:
    shown = shown_uris(uris)
    compressed = [each.info.uri for each in found if is_compressed_tar(each.info.uri)]
    if compressed and format in (None, "webdataset"):
        raise Refused(
            f"{shown} has {len(compressed)} compressed tars ({storage.redact(compressed[0])} for example); "
            "they cannot be read by range; unpack them once (gunzip, zstd -d) and give the .tar files"
        )
    if format is not None:
        return format
    kinds = Counter(kind for each in found if (kind := kind_of(each.info.uri)))
    kinds.update({"images": len(nameless)} if nameless else {})
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {_NOUNS[kind]}" for kind, count in sorted(kinds.items()))
        raise Refused(f"{shown} mixes {counts}; set input.format to one of {', '.join(sorted(kinds))}")
    if not kinds:
        raise Refused(describe_nothing(uris, found, found, _ANY))
    return next(iter(kinds))


def _of_kind(
    found: Sequence[Listed], kind: Format, format: Format | None, uris: Sequence[str], nameless: Collection[str]
) -> list[Listed]:
    """Return files of the kind by name or content, and those named in full when the user chose the format."""
    chosen = [
        each
        for each in found
        if kind_of(each.info.uri) == kind or (format is not None and each.is_named) or each.info.uri in nameless
    ]
    if not chosen:
        raise Refused(
            f"{shown_uris(uris)} has no {_NOUNS[kind]} among its {len(found)} files; check input.uri and input.format"
        )
    return chosen


def _refuse_unprintable(found: Iterable[Listed]) -> None:
    for each in found:
        try:
            each.info.uri.encode()
        except UnicodeEncodeError:
            shown = storage.redact(each.info.uri).encode("utf-8", "backslashreplace").decode()
            raise Refused(f"the name of {shown} is not UTF-8; rename the file") from None


def _groups(found: Sequence[Listed], images_per_group: int, root: str, known: Collection[str]) -> list[Shard]:
    """Return groups of image files; keys are relative to the folder that all of the input is in.

    Args:
        found: those to label: of a grown input only the new ones, whose keys must not be those of earlier ones.
        root: that folder, of the whole input; "" where there is none.
        known: URIs of the earlier ones.
    """
    paths = Counter(map(storage.path_of, {*known, *(each.info.uri for each in found)}))
    members = [
        Member(path_below(root, _unsigned(each.info.uri, paths)), each.info.uri, each.info.size, each.info.etag)
        for each in found
    ]
    groups = [tuple(members[i : i + images_per_group]) for i in range(0, len(members), images_per_group)]
    return [
        Shard("", root or found[0].root, sum(m.size or 0 for m in group), None, "images", members=group)
        for group in groups
    ]


def _unsigned(uri: str, paths: Mapping[str, int]) -> str:
    """Return a web address without its query, which may be a signature, unless only that tells it from another."""
    path = storage.path_of(uri)
    return path if paths[path] == 1 else uri


def _checked_up_to(shards: Sequence[Shard], limit: int, check: Callable[[Sequence[Shard]], list[Shard]]) -> list[Shard]:
    """Return those of the first Parquet files that have images, as far as `limit` images need: a
    footer is a request.
    """
    chosen: list[Shard] = []
    images = 0
    for start in range(0, len(shards), IN_FLIGHT):
        more = check(shards[start : start + IN_FLIGHT])
        chosen += more
        images += sum(count_images(shard) or 0 for shard in more)
        if images >= limit:
            break
    return chosen


def _first_images(shards: Iterable[Shard], limit: int) -> Iterator[Shard]:
    """Yield the shards that hold the first `limit` images; the last one is told where to stop."""
    left = limit
    for shard in shards:
        if shard.members is not None and len(shard.members) > left:
            members = shard.members[:left]
            yield replace(shard, members=members, size=sum(m.size or 0 for m in members))
            return
        images = count_tar_images(shard, left) if shard.format == "webdataset" else count_images(shard) or 0
        if images >= left:
            yield shard if shard.members is not None else replace(shard, max_images=left)
            return
        left -= images
        yield shard
