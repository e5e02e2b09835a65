"""Column types in the words of Hugging Face's `datasets`, written into a Parquet file's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
IMAGE_FEATURE: dict[str, Any] = {"_type": "Image"}


def class_label(names: Sequence[str]) -> dict[str, Any]:
    """A 0-based class index with its names."""
    return {"_type": "ClassLabel", "names": list(names)}


def sequence(feature: Mapping[str, Any], length: int = -1) -> dict[str, Any]:
    """A list; this spelling is read by old and new versions of `datasets`."""
    return {"_type": "Sequence", "feature": dict(feature), "length": length}


def value(type_: pa.DataType) -> dict[str, Any]:
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"_type": "Value", "dtype": names.get(type_, str(type_))}


def with_features(schema: pa.Schema, special: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The schema, telling `datasets` what each column is; plain columns speak for themselves."""
    features = {field.name: special.get(field.name) or value(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
