"""Inputs that are planned without holding them: what an inventory lists, and folders of image files on S3."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from labeler import storage
from labeler.errors import Refused
from labeler.shards import skipped
from labeler.shards.inventory import read_inventory, require_folders
from labeler.shards.listing import Listed, common_folder, shown_uris
from labeler.shards.look_inside import images_among
from labeler.shards.names import kind_of
from labeler.shards.patterns import has_braces, is_glob
from labeler.shards.streamed import NotPlain, StreamedFiles, plan_files, tables_of
from labeler.shards.units import Format

MANY_FILES = 10_000_000  # image files beyond which tars are recommended
log = logging.getLogger(__name__)


def stream(
    uris: Sequence[str],
    inventory: Sequence[str],
    format: Format | None,
    limit: int | None,
    images_per_group: int,
    known: Collection[str],
) -> StreamedFiles | None:
    """Return what an inventory lists, or a folder of nothing but image files on S3; None for any other input.

    A local folder is listed whole: links may lead to a file by several paths.
    """
    if inventory:
        scheme = require_folders(uris)
        roots = [uri.rstrip("/") for uri in uris]
        found = plan_files(
            lambda: read_inventory(inventory, scheme),
            roots,
            common_folder(roots),
            images_per_group,
            limit=limit,
            nameless_too=format == "images",
            known=frozenset(known),
        )
        _refuse_strange(found, uris, inventory, format)
        if not common_folder(roots):
            found.groups = [replace(group, uri=roots[0]) for group in found.groups]
        return found
    if known or limit is not None or format not in (None, "images") or len(uris) != 1 or not _is_s3_folder(uris[0]):
        return None
    root = uris[0].rstrip("/")
    try:
        found = plan_files(
            lambda: tables_of(storage.list_objects(root)), [root], root, images_per_group, plain=format is None
        )
    except NotPlain:
        return None
    if images_among(found.nameless):  # they have their place among the others, by name
        return None
    if found.images > MANY_FILES:
        log.warning(
            "%s image files cost one request each, to plan and to read; tars of about 1 GB are read ten times faster, "
            "and input.inventory saves the listing",
            f"{found.images:,}",
        )
    for info in found.others:
        skipped.count(found.beside, info.uri)
    return found if found.images else None


def _is_s3_folder(uri: str) -> bool:
    if storage.scheme(uri) not in ("s3", "s3a") or has_braces(uri) or is_glob(uri) or kind_of(uri):
        return False
    info = storage.head(uri)
    return info is None or not info.size


def _refuse_strange(found: StreamedFiles, uris: Sequence[str], inventory: Sequence[str], format: Format | None) -> None:
    """Raise Refused for an inventory without anything of this input, and for one that mixes kinds."""
    if found.images and found.others and format is None:
        raise Refused(
            f"inventory {storage.redact(inventory[0])} mixes {found.images:,} image files and {len(found.others):,} "
            "tars or Parquet files; set input.format"
        )
    if not found.images and not found.others and not found.known:
        hint = (
            f"; it has {skipped.describe(found.beside)}; files without an extension are images with input.format=images"
            if found.nameless
            else "; correct input.uri or input.inventory"
        )
        raise Refused(f"inventory {storage.redact(inventory[0])} lists no image below {shown_uris(uris)}{hint}")


def others_of(found: StreamedFiles, uris: Sequence[str]) -> tuple[list[Listed], list[str]]:
    """Return the tars and Parquet files of an inventory, as a listing has them."""
    roots = {info.uri: next(uri for uri in uris if info.uri.startswith(uri.rstrip("/") + "/")) for info in found.others}
    return [Listed(info, roots[info.uri].rstrip("/"), False) for info in found.others], list(uris)
