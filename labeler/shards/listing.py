"""List an input: folders, globs, brace patterns and single files, each object with what its key is relative to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from labeler import storage
from labeler.errors import Refused
from labeler.shards.names import kind_of
from labeler.shards.patterns import (
    crosses_folders,
    escape,
    expand_braces,
    glob_regex,
    has_braces,
    is_expandable,
    is_glob,
    static_folder,
)
from labeler.storage import ObjectInfo, OnSkipped

_FEW_PER_FOLDER = 8  # more explicit names than this in one folder are looked up by listing it once


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of the input; `is_named` when the user wrote its whole name, `root` is what its key is relative to."""

    info: ObjectInfo
    root: str
    is_named: bool

    @property
    def relative(self) -> str:
        return path_below(self.root, self.info.uri)


def list_all(uris: Iterable[str], on_skipped: OnSkipped) -> tuple[list[Listed], list[str]]:
    """Return (what is there, the folders that all of the input is in, where nothing is found yet, too)."""
    found: list[Listed] = []
    roots: list[str] = []
    for uri in uris:
        if not uri.strip():
            raise Refused("input.uri is empty; give a folder, a pattern or a file")
        listed = _list_literal(_absolute(uri), on_skipped) if has_braces(uri) else []
        names = [_absolute(uri)] if listed else [_absolute(name) for name in _write_out(uri)]
        if not listed:
            one = len(names) == 1
            listed = list(_list_one(names[0], on_skipped) if one else _list_expansion(uri, names, on_skipped))
        found += listed
        roots += dict.fromkeys(each.root for each in listed) or [_folder_of(names[0])]
    return found, roots


def _list_literal(uri: str, on_skipped: OnSkipped) -> list[Listed]:
    """Return what is there under exactly this name, pattern characters and all."""
    try:
        if kind_of(uri) and storage.head(uri) is None:  # no folder has such a name
            return []
        return list(_list_named(uri, on_skipped))
    except storage.Unreadable:  # storage may forbid to ask for what is not there
        return []


def _write_out(uri: str) -> list[str]:
    """Return what the braces stand for, except those of a folder that is there under exactly its name.

    Raises:
        Refused: if a folder that they stand for is there, too.
    """
    path = storage.path_of(uri)
    folder = _literal_folder(path) if has_braces(uri) else ""
    if not folder:
        return expand_braces(uri)
    other = next((name for name in expand_braces(folder) if _is_folder(_absolute(name))), None)
    if other is not None:
        escaped = folder.replace("{", "[{]") + path[len(folder) :]
        raise Refused(
            f"{storage.redact(uri)} may mean the folder {storage.redact(folder)} or {storage.redact(other)}, and both "
            f"are there; write {storage.redact(escaped)} for the first, or a list of names without braces for others"
        )
    return [folder + rest + uri[len(path) :] for rest in expand_braces(path[len(folder) :])]


def _literal_folder(path: str) -> str:
    """Return the longest folder above a name that is there although braces in it could be written
    out; "" without one.
    """
    ends = [at for at, char in enumerate(path) if char == "/"]
    folders = (path[:end] for end in reversed(ends) if is_expandable(path[:end]))
    return next((folder for folder in folders if _is_folder(_absolute(folder))), "")


def _folder_of(name: str) -> str:
    """Return what keys would be relative to if there were something of that name."""
    if is_glob(name):
        return static_folder(name)
    return storage.parent(name) if kind_of(name) else name


def _list_one(uri: str, on_skipped: OnSkipped) -> Iterator[Listed]:
    """Yield a pattern, a file or a folder; what is there under exactly this name is taken at its word."""
    if not is_glob(uri):
        yield from _list_named(uri, on_skipped)
        return
    yield from _list_literal(uri, on_skipped) or _match(_with_literal_folders(uri), on_skipped)


def _list_named(uri: str, on_skipped: OnSkipped) -> Iterator[Listed]:
    """Yield a file, or a folder with all below it; an index page of a web server is a folder if it
    links to anything.
    """
    info = storage.head(uri)
    is_page = storage.is_web(uri) and kind_of(uri) is None and "?" not in uri
    if info is not None and (info.size or kind_of(info.uri)) and not is_page:
        yield Listed(info, storage.parent(uri), True)
        return
    below = [Listed(each, uri, False) for each in storage.list_objects(uri, on_skipped=on_skipped)]
    yield from below or ([Listed(info, storage.parent(uri), True)] if info is not None and info.size else [])


def _with_literal_folders(glob: str) -> str:
    """Return the pattern with the folders escaped that are there under exactly their names."""
    segments = glob.split("/")
    escaped = [
        escape(segment) if is_glob(segment) and _is_folder("/".join(segments[: number + 1])) else segment
        for number, segment in enumerate(segments[:-1])
    ]
    return "/".join([*escaped, segments[-1]])


def _is_folder(uri: str) -> bool:
    try:
        return next(iter(storage.list_objects(uri, on_skipped=lambda uri, reason: None)), None) is not None
    except storage.Unreadable:
        return False


def _match(glob: str, on_skipped: OnSkipped) -> Iterator[Listed]:
    folder, pattern = static_folder(glob), glob_regex(glob)
    for info in storage.list_objects(folder, recursive=crosses_folders(glob), on_skipped=on_skipped):
        if pattern.fullmatch(info.uri):
            yield Listed(info, folder, False)


def _list_expansion(pattern: str, names: Sequence[str], on_skipped: OnSkipped) -> Iterator[Listed]:
    """Yield what a brace pattern stands for; each of its names must exist."""
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
            yield Listed(listed[name], storage.parent(name), True)
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
    """Return whether a listing of the folder has all that could be asked for by name."""
    return not storage.is_web(folder) and not folder.endswith("/")  # a name behind "//" is in a folder without a name


def path_below(root: str, uri: str) -> str:
    """Return the path of an object below a folder. Only one slash is taken off: "/a.jpg" and "a.jpg"
    are two objects.
    """
    return uri.removeprefix(root).removeprefix("/")


def _absolute(uri: str) -> str:
    """Local paths are made absolute: the machines that read them have other working directories."""
    if not storage.is_local(uri):
        return uri.rstrip("/") if not uri.endswith("://") else uri
    scheme = "file://" if uri.startswith("file://") else ""
    return scheme + os.path.abspath(storage.expand_home(uri.removeprefix(scheme)))


def repeated(uris: Iterable[str], kept: Collection[str]) -> set[str]:
    """Return the URIs of local files whose folder is in the list under another path, through a link to that folder.

    Of several paths the one in `kept` stays, else the one without links, else the first in order. A link to a single
    file stays: it may be the only one of its names that says that it is an image.

    Args:
        kept: URIs that are never repetitions: named in full, or planned before.
    """
    real_folder = cache(os.path.realpath)
    first: dict[tuple[str, str], tuple[bool, bool, str]] = {}
    found = set()
    for uri in uris:
        if not storage.is_local(uri):
            continue
        folder, name = os.path.split(uri.removeprefix("file://"))
        real = real_folder(folder)
        rank = (uri not in kept, folder != real, uri)
        before = first.setdefault((real, name), rank)
        if before != rank:
            first[real, name] = min(before, rank)
            found.add(max(before, rank)[2])
    return found.difference(kept)


def common_folder(folders: Sequence[str]) -> str:
    """Return the longest common run of segments; "" when not even the bucket is the same."""
    split = [folder.rstrip("/").split("/") for folder in dict.fromkeys(folders)]
    common = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    shared = "/".join(common)
    return "" if shared.endswith((":/", ":")) else shared


def shown_uris(uris: Sequence[str]) -> str:
    """Return an input in a message."""
    more = f" and {len(uris) - 1} more" if len(uris) > 1 else ""
    return (storage.redact(uris[0]) if uris else "input.uri") + more
