"""Inventories: tables that list objects by bucket and key, so that a bucket of any size need not be listed.

An S3 Inventory is its `manifest.json` with the CSV or Parquet files that it names; any other CSV (with a header line)
or Parquet file with the columns `bucket` and `key` will do.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from labeler import plain_json, storage
from labeler.errors import Refused
from labeler.shards.groups import FILES
from labeler.shards.patterns import has_braces, is_glob
from labeler.storage.ranged_file import RangedFile

_NEEDED = ("bucket", "key")
_SIZES, _ETAGS = ("size",), ("etag", "e_tag")
_LATEST, _DELETED = ("islatest", "is_latest"), ("isdeletemarker", "is_delete_marker")
_READ = frozenset((*_NEEDED, *_SIZES, *_ETAGS, *_LATEST, *_DELETED))
_ROWS = 1 << 16
_BLOCK_BYTES = 8 << 20
_BROKEN = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True)
class _File:
    """One file of an inventory.

    Attributes:
        columns: of a CSV file without a header line, whose keys are URL-encoded; None: the file names them.
    """

    uri: str
    columns: tuple[str, ...] | None = None


def read_inventory(uris: Sequence[str], scheme: str) -> Iterator[pa.Table]:
    """Yield tables of FILES, in the order of the inventory; old versions, deleted objects and folders are excluded.

    Args:
        uris: manifests, files, or folders of them.
        scheme: of the objects' addresses: s3, gs.

    Raises:
        Refused: one of them is missing, damaged, or lacks both bucket and key.
        StorageError: storage does not answer.
    """
    for file in _files(uris):
        try:
            for batch in _batches(file):
                yield _listed(batch, file, scheme)
        except _BROKEN as error:
            if isinstance(error, storage.StorageError):
                raise
            said = (str(error).splitlines() or ["?"])[0]
            raise Refused(
                f"inventory {storage.redact(file.uri)} cannot be read ({said}); give the manifest.json of an S3 "
                "Inventory, or CSV or Parquet files with the columns bucket and key"
            ) from None


def require_folders(uris: Sequence[str]) -> str:
    """Return the scheme of the buckets that an input with an inventory is in.

    Raises:
        Refused: it is not of buckets and folders of one kind of storage alone.
    """
    for uri in uris:
        if not storage.scheme(uri) or storage.is_local(uri) or storage.is_web(uri) or is_glob(uri) or has_braces(uri):
            raise Refused(
                f"input.uri {storage.redact(uri)}: with input.inventory it names a bucket, or a folder in one, for "
                "example s3://bucket/photos"
            )
    schemes = sorted({storage.scheme(uri) for uri in uris})
    if len(schemes) > 1:
        raise Refused(f"input.uri mixes {' and '.join(schemes)}; an inventory lists objects of one of them")
    return schemes[0]


def _files(uris: Sequence[str]) -> Iterator[_File]:
    for uri in uris:
        found = sorted(_expand(uri))
        if not found:
            raise Refused(f"inventory {storage.redact(uri)} is missing or empty; correct input.inventory")
        for each in found:
            if posixpath.basename(storage.path_of(each)) == "manifest.json":
                yield from _of_manifest(each)
            else:
                yield _File(each)


def _expand(uri: str) -> list[str]:
    if storage.head(uri) is not None:
        return [uri]
    below = [info.uri for info in storage.list_objects(uri)]
    manifests = [each for each in below if each.endswith("/manifest.json")]
    if len(manifests) > 1:
        raise Refused(
            f"inventory {storage.redact(uri)} holds {len(manifests)} of them; name one, for example "
            f"{storage.redact(max(manifests))}"
        )
    return manifests or [each for each in below if _is_table(each)]


def _is_table(uri: str) -> bool:
    return uri.lower().endswith((".csv", ".csv.gz", ".parquet", ".pq", ".parq"))


def _of_manifest(uri: str) -> Iterator[_File]:
    """Yield the files that a manifest names, which are in its own bucket."""
    try:
        manifest = plain_json.parse(storage.read_bytes(uri))
        kind, schema = manifest["fileFormat"], manifest["fileSchema"]
        keys = [file["key"] for file in manifest["files"]]
        bucket = manifest["destinationBucket"].rpartition(":")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(
            f"{storage.redact(uri)} is not the manifest of an S3 Inventory; correct input.inventory"
        ) from None
    if kind not in ("CSV", "Parquet"):
        raise Refused(
            f"inventory {storage.redact(uri)} is in {kind}, which cannot be read here; have it written as Parquet or "
            "CSV"
        )
    columns = tuple(name.strip() for name in schema.split(",")) if kind == "CSV" else None
    # A copy of an inventory lies elsewhere than its manifest says: in the folder of the manifest it has its names.
    home = storage.parent(uri)
    for key in keys:
        name = posixpath.basename(key)
        places = [storage.join(home, name), storage.join(home, f"data/{name}")]
        places += [f"{storage.scheme(uri)}://{bucket}/{key}"] if storage.scheme(uri) else []
        found = next((place for place in places if storage.head(place) is not None), None)
        if found is None:
            raise Refused(f"inventory {storage.redact(uri)} names {key}, which is missing; restore it")
        yield _File(found, columns)


def _batches(file: _File) -> Iterator[pa.Table]:
    info = storage.head(file.uri)
    if info is None:
        raise Refused(f"inventory {storage.redact(file.uri)} is gone; correct input.inventory")
    if not storage.path_of(file.uri).lower().endswith((".csv", ".csv.gz")):
        parquet = pq.ParquetFile(RangedFile(file.uri, info.size, info.etag))
        wanted = [each for each in parquet.schema_arrow.names if each.lower() in _READ]
        for batch in parquet.iter_batches(_ROWS, columns=wanted):
            yield pa.Table.from_batches([batch])
        return
    names = file.columns or tuple(_open_csv(file, info, None).schema.names)
    for batch in _open_csv(file, info, names):
        yield pa.Table.from_batches([batch])


def _open_csv(file: _File, info: storage.ObjectInfo, text: Sequence[str] | None) -> pcsv.CSVStreamingReader:
    """Return a CSV file, from its first row on.

    Args:
        text: columns that are read as text: a key may be "0001"; None: as they look.
    """
    source = pa.PythonFile(RangedFile(file.uri, info.size, info.etag), mode="r")
    return pcsv.open_csv(
        pa.CompressedInputStream(source, "gzip") if file.uri.lower().endswith(".gz") else source,
        read_options=pcsv.ReadOptions(column_names=file.columns, block_size=_BLOCK_BYTES),
        parse_options=pcsv.ParseOptions(newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(text or (), pa.string())),
    )


def _listed(table: pa.Table, file: _File, scheme: str) -> pa.Table:
    """Return what a batch of an inventory lists, as FILES."""
    names = {name.strip().lower(): name for name in table.column_names}
    if missing := [name for name in _NEEDED if name not in names]:
        raise Refused(
            f"inventory {storage.redact(file.uri)} has no column {' and no column '.join(missing)}, it has "
            f"{', '.join(table.column_names[:8]) or 'none'}; an inventory needs bucket and key (for the files of an S3 "
            "Inventory, name its manifest.json)"
        )
    bucket, key = (table[names[name]].cast(pa.string()) for name in _NEEDED)
    if bucket.null_count or key.null_count:
        raise Refused(f"inventory {storage.redact(file.uri)} has a row without bucket or key; correct it")
    if file.columns is not None:
        key = _decoded(key)
    columns = [
        pc.binary_join_element_wise(f"{scheme}:/", bucket, key, "/"),
        _whole_numbers(_optional(table, names, _SIZES)),
        pc.replace_substring(_optional(table, names, _ETAGS), '"', ""),
    ]
    kept = pc.invert(pc.or_(pc.ends_with(key, "/"), pc.equal(pc.binary_length(key), 0)))
    for which, unwanted in ((_LATEST, ["false", "0"]), (_DELETED, ["true", "1"])):
        said = pc.utf8_lower(_optional(table, names, which))
        kept = pc.and_(kept, pc.invert(pc.is_in(said, value_set=pa.array(unwanted))))
    return pa.Table.from_arrays(columns, schema=FILES).filter(kept)


def _whole_numbers(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return sizes; a column with missing ones may be written as 3.0 or 1.5e+10. Text that is not a number is null:
    sizes are only a check.
    """
    number = r"^[0-9]+(\.[0-9]*)?(e\+?[0-9]+)?$"
    numbers = pc.if_else(pc.match_substring_regex(text, number, ignore_case=True), text, None)
    if pc.any(pc.match_substring_regex(numbers, "[.eE]")).as_py():
        return pc.cast(pc.cast(numbers, pa.float64()), pa.int64(), safe=False)
    return numbers.cast(pa.int64())


def _optional(table: pa.Table, names: Mapping[str, str], which: Sequence[str]) -> pa.ChunkedArray:
    """Return a column as text, by any of its names; "" is null, and so is all of a column that is not there."""
    name = next((names[each] for each in which if each in names), None)
    if name is None:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    text = table[name].cast(pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)


def _decoded(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return keys that are URL-encoded, decoded; most have nothing to decode."""
    encoded = pc.match_substring_regex(keys, "[%+]")
    if not pc.any(encoded).as_py():
        return keys
    return pa.chunked_array([pa.array(map(unquote_plus, keys.to_pylist()), pa.string())])
