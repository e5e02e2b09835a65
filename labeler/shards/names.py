"""What a file's name says about it: its kind, and whether it is hidden."""

from __future__ import annotations

from labeler.shards.units import Format

IMAGE_EXTENSIONS = frozenset(
    (
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "webp",
        "bmp",
        "gif",
        "tif",
        "tiff",
        "avif",
        "heic",
        "heif",
        "jp2",
        "ppm",
        "pgm",
        "pnm",
        "tga",
        "ico",
    )
)
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


def is_image(name: str) -> bool:
    """By extension; macOS's `._name` companions are none."""
    file_name = name.rpartition("/")[2]
    stem, dot, extension = file_name.rpartition(".")
    return bool(dot and stem) and extension.lower() in IMAGE_EXTENSIONS and not file_name.startswith("._")


def is_compressed_tar(name: str) -> bool:
    return name.lower().endswith(_COMPRESSED_TARS)


def kind_of(name: str) -> Format | None:
    """The input format of a file of this name, None for all that is no input."""
    lower = name.lower()
    if lower.endswith(".tar"):
        return "webdataset"
    if lower.endswith((".parquet", ".parq", ".pq")):
        return "parquet"
    return "images" if is_image(name) else None


def is_hidden(relative: str) -> bool:
    """Names starting with "." anywhere in the path; with "_" unless it is an image file.

    `_temporary/`, `_SUCCESS` and the like are other tools' bookkeeping, but `_DSC0001.jpg` is how cameras name
    photographs.
    """
    *folders, file_name = relative.split("/")
    if file_name.startswith(".") or any(folder.startswith((".", "_")) for folder in folders):
        return True
    return file_name.startswith("_") and not is_image(file_name)
