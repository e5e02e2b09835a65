"""What names say: the kind of a file, and whether it is hidden; and a name of its own for each shard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from labeler import storage
from labeler.images.headers import sniff
from labeler.shards.units import Format, Shard
from labeler.storage import path_of

# What Pillow and other readers open, whether this project decodes it or not: an image that is not decoded is a row.
IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "jif", "mpo", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "avif",
     "avifs", "heic", "heif", "jp2", "ppm", "pgm", "pnm", "pbm", "pfm", "tga", "ico")
)  # fmt: skip
_SIZES_OF_TWITTER = re.compile(r"(jpg|jpeg|png|webp)[_:](large|orig|small|medium|thumb)")
_RELATIVE = (".", "..")
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


def is_image(name: str) -> bool:
    """Judge by the extension, in names with a query or white space behind it, too; macOS's `._name` files are not."""
    file_name = name.rpartition("/")[2]
    return not file_name.startswith("._") and (_has_image_extension(name) or _has_image_extension(name.split("?")[0]))


def _has_image_extension(name: str) -> bool:
    stem, dot, extension = name.rpartition("/")[2].rstrip().lower().rpartition(".")
    return bool(dot and stem) and (extension in IMAGE_EXTENSIONS or _SIZES_OF_TWITTER.fullmatch(extension) is not None)


def is_compressed_tar(name: str) -> bool:
    return path_of(name).lower().endswith(_COMPRESSED_TARS)


def kind_of(name: str) -> Format | None:
    """Return the input format of a file of this name, or None; the query of a web address is ignored."""
    lower = path_of(name).lower()
    if lower.endswith(".tar"):
        return "webdataset"
    if lower.endswith((".parquet", ".parq", ".pq")):
        return "parquet"
    return "images" if is_image(path_of(name)) else None


def is_hidden(relative: str) -> bool:
    """Return names starting with "." anywhere in the path; with "_" unless it is an image file.

    `_temporary/`, `_SUCCESS` and the like are other tools' bookkeeping, but `_DSC0001.jpg` is how cameras name
    photographs. "." and ".." are folders of object stores, where they mean nothing.
    """
    *folders, file_name = relative.split("/")
    if file_name.startswith(".") or any(
        folder.startswith((".", "_")) and folder not in _RELATIVE for folder in folders
    ):
        return True
    return file_name.startswith("_") and not is_image(file_name)


def has_extension(name: str) -> bool:
    """Return whether the file name says of what kind it is, known here or not."""
    stem, _, extension = path_of(name).rpartition("/")[2].rpartition(".")
    return bool(stem.strip(".") and extension)


SNIFFED_BYTES = 32
_SURE = frozenset({"JPEG", "PNG", "WEBP", "GIF", "AVIF"})  # the magic numbers of others are too short to be certain


def looks_like_image(head: bytes) -> bool:
    """Judge by the first SNIFFED_BYTES of a file whose name does not say what it is."""
    return sniff(head) in _SURE


def name_shards(shards: Sequence[Shard], *, planned: Iterable[str] = (), taken: Collection[str] = ()) -> list[Shard]:
    """Return the shards with their names; groups of image files have none.

    Args:
        planned: URIs of an earlier plan. Their names do not change, but new ones must differ from them.
        taken: names of that plan.
    """
    left = list(dict.fromkeys(shard.uri for shard in shards if shard.members is None))
    everybody = {*left, *planned}
    names: dict[str, str] = {}
    used, length = set(taken), 0
    while left:  # most often once: file names alone differ
        length += 1
        ends = Counter(_ending(uri, length) for uri in everybody)
        for uri in left:
            name = _ending(uri, length)
            if name and ends[name] == 1 and name not in used:
                names[uri] = name
        used.update(names.values())
        left = [uri for uri in left if uri not in names and _ending(uri, length + 1)]
    return [
        shard if shard.members is not None else replace(shard, name=names.get(shard.uri) or _last_resort(shard, used))
        for shard in shards
    ]


def _ending(uri: str, length: int) -> str:
    """Return the last segments of a path; "" where it has fewer."""
    path = _segments(uri)
    return "/".join(path[-length:]) if len(path) >= length else ""


def _segments(uri: str) -> list[str]:
    """Return the path's parts, a bucket or host first. What follows the `?` of a web address is excluded: it may be
    secret.
    """
    path = storage.path_of(uri)
    return [part for part in path.removeprefix(f"{storage.scheme(uri)}://").split("/") if part] or [path]


def _last_resort(shard: Shard, used: Collection[str]) -> str:
    """For two addresses that differ in their scheme or query alone."""
    name = f"{shard.shard_id}/{_segments(shard.uri)[-1]}"
    while name in used:
        name = f"{shard.shard_id}/{name}"
    return name
