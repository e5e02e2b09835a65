"""Which column of a Parquet file holds the images, and in what form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from labeler.errors import Refused
from labeler.storage import redact

_USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "picture", "photo", "pixels", "bytes", "image_bytes", "data")
# Text columns, in this order: first those that hold an image itself by their name. What each cell holds is seen there.
_ADDRESS_NAMES = ("image_base64", "image_b64", "img_base64", "img_b64", "base64", "b64",
                  "image", "image_uri", "image_url", "image_path", "uri", "url", "path", "img", "img_path", "img_url",
                  "file", "filename", "file_name", "filepath", "file_path",
                  "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes", "data")  # fmt: skip


@dataclass(frozen=True)
class ImageColumn:
    """`bytes`: encoded images; `struct`: {bytes, path} as in Hugging Face datasets; `uri`: text, an image's address.

    A cell of text may also hold the image itself, in base64 or as a `data:` URI (`text_images`).
    """

    name: str
    kind: Literal["bytes", "struct", "uri"]
    has_path: bool = False


class NoImageColumn(Refused):
    """A Parquet file in which no column can hold images."""


def find_image_column(schema: pa.Schema, wanted: str | None, uri: str) -> ImageColumn:
    """Return the column `wanted`, or the one that is clearly meant.

    Raises:
        NoImageColumn: if there is none.
        Refused: if there are several and none has a usual name.
    """
    shown = redact(uri)
    if wanted is not None:
        if wanted not in schema.names:
            raise NoImageColumn(f"{shown} has no column {wanted!r} (input.image_column); it has {_list(schema.names)}")
        column = _as_image_column(wanted, schema.field(wanted).type) or _as_address_column(wanted, schema)
        if column is None:
            raise NoImageColumn(
                f"{shown}: column {wanted!r} (input.image_column) is {schema.field(wanted).type}; "
                "it must hold bytes, {bytes, path} or URIs"
            )
        return column
    found = [column for name in schema.names if (column := _as_image_column(name, schema.field(name).type))]
    if len(found) == 1:
        return found[0]
    by_name = {column.name.lower(): column for column in found}
    for name in _USUAL_NAMES:
        if name in by_name:
            return by_name[name]
    if found:
        names = _list([column.name for column in found])
        raise Refused(f"{shown} has several columns that may hold images: {names}; set input.image_column to one")
    lower = {name.lower(): name for name in reversed(schema.names)}
    for name in _ADDRESS_NAMES:
        address = _as_address_column(lower[name], schema) if name in lower else None
        if address is not None:
            return address
    raise NoImageColumn(
        f"{shown} has no column of images (bytes, {{bytes, path}} or URIs), only {_list(schema.names)}; "
        "set input.image_column, or leave the file out"
    )


def _as_image_column(name: str, kind: pa.DataType) -> ImageColumn | None:
    if _is_binary(kind):
        return ImageColumn(name, "bytes")
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in fields and _is_binary(fields["bytes"]):
            return ImageColumn(name, "struct", "path" in fields and _is_text(fields["path"]))
    return None


def _as_address_column(name: str, schema: pa.Schema) -> ImageColumn | None:
    return ImageColumn(name, "uri") if _is_text(schema.field(name).type) else None


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
