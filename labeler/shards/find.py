"""Find the shards under a URI: tars, Parquet files, or image files frozen in groups."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.shards import skipped
from labeler.shards.nameless import images_among
from labeler.shards.names import has_extension, is_compressed_tar, is_hidden, kind_of
from labeler.shards.patterns import (
    crosses_folders,
    escape,
    expand_braces,
    glob_regex,
    has_braces,
    is_glob,
    static_folder,
)
from labeler.shards.reading import count_images, count_tar_images
from labeler.shards.shard_names import name_shards
from labeler.shards.spellings import repeated
from labeler.shards.units import Format, Member, Shard
from labeler.shards.without_images import with_images
from labeler.storage import ObjectInfo, OnSkipped

log = logging.getLogger(__name__)
IMAGES_PER_GROUP = 2048
_FEW_PER_FOLDER = 8  # more explicit names than this in one folder are looked up by listing it once
_SHARDS = ("webdataset", "parquet")
_NOUNS = {"webdataset": "tars", "parquet": "Parquet files", "images": "image files"}


@dataclass(frozen=True)
class _Found:
    """An object of the input; `is_named` when the user wrote its whole name, `root` is what its key is relative to."""

    info: ObjectInfo
    root: str
    is_named: bool

    @property
    def relative(self) -> str:
        return _below(self.root, self.info.uri)


def find_shards(
    uri: str | Sequence[str],
    *,
    format: str | None = None,
    limit: int | None = None,
    images_per_group: int = IMAGES_PER_GROUP,
    image_column: str | None = None,
    skip_without_images: bool = False,
    known: Collection[str] = (),
    taken: Collection[str] = (),
    first_id: int = 0,
    counts: Counter[str] | None = None,
) -> list[Shard]:
    """The shards of an input, sorted by URI, numbered from `first_id`.

    Args:
        uri: a folder (with all below it), a glob, a brace pattern, one file, or a list of those. Names that start
            with "." are left out, with "_" too unless they are image files; what is named in full is always taken.
        format: "webdataset", "images" or "parquet"; None decides by the names, which must be of one kind.
        limit: only the first so many images in the order of the shards.
        images_per_group: image files in one shard.
        skip_without_images: go on without Parquet files that have no image column.
        known: URIs of shards, or of image files, that an earlier plan has: they are left out.
        taken: names of shards that an earlier plan has.
        counts: gets, by extension, the number of files that are not part of the input (`shards.skipped`).

    Raises:
        Refused: nothing found, mixed or unknown kinds, no such bucket or file, no permission; one line.
    """
    counts = Counter() if counts is None else counts
    if format is not None and format not in get_args(Format):
        raise Refused(f"input.format {format!r} is unknown; choose one of {', '.join(get_args(Format))}")
    if limit is not None and limit < 1:
        raise Refused(f"input.limit is {limit}; it must be 1 or more")
    uris = [uri] if isinstance(uri, str) else list(uri)
    try:
        unreadable: dict[str, str] = {}
        listed, roots = _list_all(uris, unreadable.__setitem__)
        _warn_of_unreadable(unreadable)
        planned = frozenset(known)
        found = _unique(listed, planned)
        nameless = _images_without_names(found, format, planned)
        kind = _choose_format(found, format, uris, nameless)
        of_kind = _of_kind(found, kind, format, uris, nameless)
        chosen = [each for each in of_kind if each.info.uri not in planned]
        _refuse_unprintable(chosen)
        _count_others(listed, found, of_kind, len(unreadable), counts)
        if kind == "images":
            shards = _groups(chosen, images_per_group, _common_folder(roots))
        else:
            shards = [_shard(each.info, kind) for each in chosen]
        if kind == "parquet":
            shards = with_images(shards, image_column, counts, skip=skip_without_images)
        shards = [replace(shard, shard_id=f"{first_id + i:06d}") for i, shard in enumerate(shards)]
        shards = name_shards(shards, planned=planned if kind != "images" else (), taken=taken)
        return shards if limit is None else list(_first_images(shards, limit))
    except StorageError as error:
        raise Refused(f"input cannot be read: {error}") from error


def _list_all(uris: Iterable[str], on_skipped: OnSkipped) -> tuple[list[_Found], list[str]]:
    """(what is there, the folders that all of the input lies in, where nothing is found yet, too)."""
    found: list[_Found] = []
    roots: list[str] = []
    for uri in uris:
        if not uri.strip():
            raise Refused("input.uri is empty; give a folder, a pattern or a file")
        listed = _list_literal(_absolute(uri), on_skipped) if has_braces(uri) else []
        names = [_absolute(uri)] if listed else [_absolute(name) for name in expand_braces(uri)]
        if not listed:
            one = len(names) == 1
            listed = list(_list_one(names[0], on_skipped) if one else _list_expansion(uri, names, on_skipped))
        found += listed
        roots += dict.fromkeys(each.root for each in listed) or [_folder_of(names[0])]
    return found, roots


def _list_literal(uri: str, on_skipped: OnSkipped) -> list[_Found]:
    """What is there under exactly this name, pattern characters and all."""
    try:
        if kind_of(uri) and storage.head(uri) is None:  # no folder has such a name
            return []
        return list(_list_named(uri, on_skipped))
    except storage.Unreadable:  # storage may forbid to ask for what is not there
        return []


def _folder_of(name: str) -> str:
    """What keys would be relative to if there were something of that name."""
    if is_glob(name):
        return static_folder(name)
    return storage.parent(name) if kind_of(name) else name


def _list_one(uri: str, on_skipped: OnSkipped) -> Iterator[_Found]:
    """A pattern, a file or a folder; what is there under exactly this name is taken at its word."""
    if not is_glob(uri):
        yield from _list_named(uri, on_skipped)
        return
    yield from _list_literal(uri, on_skipped) or _match(_with_literal_folders(uri), on_skipped)


def _list_named(uri: str, on_skipped: OnSkipped) -> Iterator[_Found]:
    """A file, or a folder with all below it; an index page of a web server is a folder if it links to anything."""
    info = storage.head(uri)
    is_page = storage.is_web(uri) and kind_of(uri) is None and "?" not in uri
    if info is not None and (info.size or kind_of(info.uri)) and not is_page:
        yield _Found(info, storage.parent(uri), True)
        return
    below = [_Found(each, uri, False) for each in storage.list_objects(uri, on_skipped=on_skipped)]
    yield from below or ([_Found(info, storage.parent(uri), True)] if info is not None and info.size else [])


def _with_literal_folders(glob: str) -> str:
    """The pattern with the folders escaped that are there under exactly their names."""
    segments = glob.split("/")
    escaped = [
        escape(segment) if is_glob(segment) and _is_folder("/".join(segments[: number + 1])) else segment
        for number, segment in enumerate(segments[:-1])
    ]
    return "/".join([*escaped, segments[-1]])


def _is_folder(uri: str) -> bool:
    try:
        return next(iter(storage.list_objects(uri)), None) is not None
    except storage.Unreadable:
        return False


def _match(glob: str, on_skipped: OnSkipped) -> Iterator[_Found]:
    folder, pattern = static_folder(glob), glob_regex(glob)
    for info in storage.list_objects(folder, recursive=crosses_folders(glob), on_skipped=on_skipped):
        if pattern.fullmatch(info.uri):
            yield _Found(info, folder, False)


def _list_expansion(pattern: str, names: Sequence[str], on_skipped: OnSkipped) -> Iterator[_Found]:
    """What a brace pattern stands for; each of its names must exist."""
    per_folder = Counter(storage.parent(name) for name in names if not is_glob(name))
    crowded = {folder for folder, count in per_folder.items() if count > _FEW_PER_FOLDER and _lists_names(folder)}
    listed = {
        info.uri: info
        for folder in sorted(crowded)
        for info in storage.list_objects(folder, recursive=False, on_skipped=on_skipped)
    }
    missing = []
    for name in names:
        if name in listed:
            yield _Found(listed[name], storage.parent(name), True)
            continue
        found = [] if storage.parent(name) in crowded and kind_of(name) else list(_list_one(name, on_skipped))
        if not found:
            missing.append(storage.redact(name))
        yield from found
    if missing:
        raise Refused(
            f"{len(missing)} of the {len(names)} objects of {storage.redact(pattern)} do not exist, "
            f"{missing[0]} for example; correct the pattern",
            missing,
        )


def _lists_names(folder: str) -> bool:
    """Whether a listing of the folder has all that could be asked for by name."""
    return not storage.is_web(folder) and not folder.endswith("/")  # a name behind "//" is in a folder without a name


def _below(root: str, uri: str) -> str:
    """The path of an object below a folder. Only one slash is taken off: "/a.jpg" and "a.jpg" are two objects."""
    return uri.removeprefix(root).removeprefix("/")


def _absolute(uri: str) -> str:
    """Local paths are made absolute: the machines that read them have other working directories."""
    if not storage.is_local(uri):
        return uri.rstrip("/") if not uri.endswith("://") else uri
    scheme = "file://" if uri.startswith("file://") else ""
    return scheme + os.path.abspath(os.path.expanduser(uri.removeprefix(scheme)))


def _warn_of_unreadable(unreadable: Mapping[str, str]) -> None:
    """Log one line about the entries of the input that could not be listed."""
    if unreadable:
        uri, reason = min(unreadable.items())
        entries = "entry" if len(unreadable) == 1 else "entries"
        example = storage.printable(f"{storage.redact(uri)} ({reason})")
        log.warning("skipped %d unreadable %s of the input, for example %s", len(unreadable), entries, example)


def _unique(found: Iterable[_Found], planned: Collection[str]) -> list[_Found]:
    """Sorted by URI; an object that several patterns name, or links lead to in several ways, stands once."""
    by_uri: dict[str, _Found] = {}
    for each in found:
        before = by_uri.setdefault(each.info.uri, each)
        if each.is_named and not before.is_named:
            by_uri[each.info.uri] = each
    visible = {uri: each for uri, each in by_uri.items() if each.is_named or not is_hidden(each.relative)}
    kept = {uri for uri, each in visible.items() if each.is_named or uri in planned}
    again = repeated(visible, kept)
    return sorted((each for uri, each in visible.items() if uri not in again), key=lambda each: each.info.uri)


def _images_without_names(found: Sequence[_Found], format: str | None, planned: Collection[str]) -> set[str]:
    """URIs of image files whose names do not say so: those planned before, and those that begin like one."""
    if format not in (None, "images") or (format is None and any(kind_of(e.info.uri) in _SHARDS for e in found)):
        return set()
    without = [each.info for each in found if not has_extension(each.info.uri)]
    before = {info.uri for info in without if info.uri in planned}
    return before | images_among([info for info in without if info.uri not in before])


def _count_others(
    listed: Iterable[_Found], found: Iterable[_Found], of_kind: Iterable[_Found], unreadable: int, counts: Counter[str]
) -> None:
    """Count what lies beside the input's own files."""
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
    found: Sequence[_Found], format: str | None, uris: Sequence[str], nameless: Collection[str]
) -> Format:
    shown = _shown(uris)
    compressed = [each.info.uri for each in found if is_compressed_tar(each.info.uri)]
    if compressed and format in (None, "webdataset"):
        raise Refused(
            f"{shown} has {len(compressed)} compressed tars ({storage.redact(compressed[0])} for example); "
            "they cannot be read by range; unpack them once (gunzip, zstd -d) and give the .tar files"
        )
    for kind in get_args(Format):
        if kind == format:
            return kind  # type: ignore[no-any-return]
    kinds = Counter(kind for each in found if (kind := kind_of(each.info.uri)))
    kinds.update({"images": len(nameless)} if nameless else {})
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {_NOUNS[kind]}" for kind, count in sorted(kinds.items()))
        raise Refused(f"{shown} mixes {counts}; set input.format to one of {', '.join(sorted(kinds))}")
    if not kinds:
        what = f"{len(found)} files, but none of them a" if found else "no"
        raise Refused(f"{shown} has {what} tar, Parquet or image file; check the address, or set input.format")
    return next(iter(kinds))


def _of_kind(
    found: Sequence[_Found], kind: Format, format: str | None, uris: Sequence[str], nameless: Collection[str]
) -> list[_Found]:
    """Files of the kind by name or content, and those named in full when the user chose the format."""
    chosen = [
        each
        for each in found
        if kind_of(each.info.uri) == kind or (format is not None and each.is_named) or each.info.uri in nameless
    ]
    if not chosen:
        raise Refused(
            f"{_shown(uris)} has no {_NOUNS[kind]} among its {len(found)} files; check input.uri and input.format"
        )
    return chosen


def _refuse_unprintable(found: Iterable[_Found]) -> None:
    for each in found:
        try:
            each.info.uri.encode()
        except UnicodeEncodeError:
            shown = storage.redact(each.info.uri).encode("utf-8", "backslashreplace").decode()
            raise Refused(f"the name of {shown} is not UTF-8; rename the file") from None


def _shown(uris: Sequence[str]) -> str:
    more = f" and {len(uris) - 1} more" if len(uris) > 1 else ""
    return (storage.redact(uris[0]) if uris else "input.uri") + more


def _shard(info: ObjectInfo, kind: Format) -> Shard:
    return Shard("", info.uri, info.size, info.etag, kind)


def _groups(found: Sequence[_Found], images_per_group: int, root: str) -> list[Shard]:
    """Groups of image files; keys are relative to the folder that all of the input lies in.

    Args:
        found: those to label: of a grown input only the new ones, whose keys must not be those of earlier ones.
        root: that folder, of the whole input; "" where there is none.
    """
    paths = Counter(storage.path_of(each.info.uri) for each in found)
    members = [
        Member(_below(root, _unsigned(each.info.uri, paths)), each.info.uri, each.info.size, each.info.etag)
        for each in found
    ]
    groups = [tuple(members[i : i + images_per_group]) for i in range(0, len(members), images_per_group)]
    return [
        Shard("", root or found[0].root, sum(m.size or 0 for m in group), None, "images", members=group)
        for group in groups
    ]


def _unsigned(uri: str, paths: Mapping[str, int]) -> str:
    """A web address without its query, which may be a signature, unless only that tells it from another."""
    path = storage.path_of(uri)
    return path if paths[path] == 1 else uri


def _common_folder(folders: Sequence[str]) -> str:
    """The longest common run of segments; "" when not even the bucket is the same."""
    split = [folder.rstrip("/").split("/") for folder in dict.fromkeys(folders)]
    common = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    shared = "/".join(common)
    return "" if shared.endswith((":/", ":")) else shared


def _first_images(shards: Iterable[Shard], limit: int) -> Iterator[Shard]:
    """The shards that hold the first `limit` images; the last one is told where to stop."""
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
