"""Manifests held strictly against a CustomResourceDefinition: `python -m tests.crd --crd FILE MANIFEST...`.

An API server prunes what its schema does not know; here that is a problem, and so is a key given twice.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
METADATA = {
    "type": "object",
    "properties": {
        "name": _NAME,
        "generateName": {"type": "string"},
        "namespace": _NAME,
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "additionalProperties": False,
}
CONFIG_MAP = {
    "type": "object",
    "properties": {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "ConfigMap"},
        "metadata": METADATA,
        "data": _TEXTS,
    },
    "required": ["apiVersion", "kind", "metadata", "data"],
    "additionalProperties": False,
}


class _Loader(yaml.SafeLoader):
    """PyYAML would take the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"key {twice} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def load_all(text: str) -> list[Any]:
    """The documents of a YAML text; yaml.YAMLError for a key that is given twice, too."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]


def closed(schema: Any) -> Any:
    """A copy in which no object takes a key that is not declared.

    Also without OpenAPI's own words: `nullable`, and metadata that the API server knows by itself.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy = {key: closed(value) if key not in ("enum", "const", "default") else value for key, value in schema.items()}
    if copy.get("nullable") and isinstance(copy.get("type"), str):
        copy["type"] = [copy["type"], "null"]
    properties = copy.get("properties")
    metadata = properties.get("metadata") if isinstance(properties, dict) else None
    if isinstance(metadata, dict) and not metadata.get("properties"):
        properties["metadata"] = METADATA
    free = ("additionalProperties", "patternProperties", "x-kubernetes-preserve-unknown-fields")
    if "object" in _types(copy) and "properties" in copy and not any(copy.get(key) for key in free):
        copy["additionalProperties"] = False
    return copy


def _types(schema: Mapping[str, Any]) -> list[Any]:
    found = schema.get("type", [])
    return found if isinstance(found, list) else [found]


def schemas_of(crds: list[Any]) -> dict[tuple[str, str], Any]:
    """(apiVersion, kind) -> closed schema, of every version that is served."""
    found: dict[tuple[str, str], Any] = {("v1", "ConfigMap"): CONFIG_MAP}
    for crd in crds:
        spec = crd["spec"]
        for version in spec["versions"]:
            if version["served"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = closed(version["schema"]["openAPIV3Schema"])
    return found


def problems(text: str, schemas: Mapping[tuple[str, str], Any]) -> Iterator[str]:
    """A line per problem for which the API server would reject a manifest."""
    try:
        documents = load_all(text)
    except yaml.YAMLError as error:
        yield " ".join(str(error).split())
        return
    for document in documents:
        key = (document.get("apiVersion"), document.get("kind"))
        if key not in schemas:
            yield f"no schema for {key[0]} {key[1]}"
            continue
        for error in jsonschema.Draft202012Validator(schemas[key]).iter_errors(document):
            yield f"{key[1]} {error.json_path}: {error.message[:300]}"


def read_crd(path: Path) -> dict[tuple[str, str], Any]:
    """`schemas_of` of a file, which may be packed by gzip, may hold several, or a List of them."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    documents = [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
    items = [item for each in documents for item in (each["items"] if each["kind"] == "List" else [each])]
    return schemas_of([item for item in items if item["kind"] == "CustomResourceDefinition"])


def main(arguments: list[str] | None = None) -> int:
    """Print every problem of the manifests; return 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tests.crd", description=__doc__)
    parser.add_argument("--crd", required=True, help="YAML of the CustomResourceDefinition, also .gz")
    parser.add_argument("manifests", nargs="+")
    asked = parser.parse_args(arguments)
    if not Path(asked.crd).is_file():
        parser.error(f"--crd {asked.crd!r} is not a file; `kubectl get crd rayjobs.ray.io -o yaml` prints it")
    schemas = read_crd(Path(asked.crd))
    found = [f"{path}: {line}" for path in asked.manifests for line in problems(Path(path).read_text(), schemas)]
    print("\n".join(found) or f"{', '.join(asked.manifests)}: as the schema has it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
