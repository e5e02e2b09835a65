"""Every key of a config with its type, default and description, from the models' JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from labeler.config import OF_FAMILY, Config
from labeler.training.config import TrainingJob
from tests.docs_pages.markdown import GENERATED, cell, table

_NAMES = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "object": "mapping"}
_LABELING = """# Configuration

Every key of the YAML file that `labeler label`, `labeler preview` and other commands read. Only `input`, `output`,
`vocabulary` and `model.name` are required. Unknown keys are rejected. You can set any key on the command line, too:

```
labeler label mine.yaml detect.score_floor=0.1 ray.workers=4
```

Editors check and complete a config by [its JSON schema](config.schema.json). For editors with the YAML language server,
put this line at the top of the file: `# yaml-language-server: $schema=PATH_OR_URL/config.schema.json`.

The keys of `labeler train` are on the page [Training configuration](training-configuration.md).
"""
_TRAINING = """# Training configuration

Every key of the YAML file that `labeler train` reads. Unknown keys are rejected. Editors use
[its JSON schema](training.schema.json).

```
labeler train mine.yaml train.steps=500
```
"""


def labeling_page() -> str:
    return _page(Config, _LABELING)


def training_page() -> str:
    return _page(TrainingJob, _TRAINING)


def labeling_schema() -> str:
    return _schema_file(Config)


def training_schema() -> str:
    return _schema_file(TrainingJob)


def sections(root: type[BaseModel]) -> dict[type[BaseModel], list[str]]:
    """The models of a config in reading order, each with the keys that hold it; "" for the root."""
    found: dict[type[BaseModel], list[str]] = {root: [""]}
    todo = [("", root)]
    while todo:
        prefix, model = todo.pop(0)
        inner = [
            (f"{prefix}{key(name, field)}", each)
            for name, field in model.model_fields.items()
            for each in _models(field.annotation)
        ]
        for path, each in inner:
            found.setdefault(each, []).append(path)
        todo[:0] = [(f"{path}.", each) for path, each in inner]
    return found


def key(name: str, field: Any) -> str:
    """A field's name in YAML."""
    return field.alias or name


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for each in getattr(annotation, "__args__", (annotation,)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each


def _page(root: type[BaseModel], introduction: str) -> str:
    schema = root.model_json_schema()
    parts = [GENERATED, introduction]
    for model, paths in sections(root).items():
        title = "Sections" if model is root else ", ".join(paths)
        properties = (schema if model is root else schema["$defs"][model.__name__])["properties"]
        prefix = "" if model is root else f"{paths[0].split('.')[-1] if len(paths) > 1 else paths[0]}."
        named = {key(name, field): field for name, field in model.model_fields.items()}
        rows = [_row(f"{prefix}{name}", field, properties[name]) for name, field in named.items()]
        about = "" if model is root else f"{' '.join((model.__doc__ or '').split())}\n\n"
        parts.append(f"## {title}\n\n{about}{table(('key', 'type', 'default', 'description'), rows)}")
    return "\n".join(parts)


def _row(name: str, field: Any, schema: dict[str, Any]) -> tuple[str, ...]:
    text = " ".join((field.description or "").split())
    if OF_FAMILY in field.metadata:
        text += " Not for all detector families."
    kind = "size" if name.endswith("bytes") else _type(schema)
    return f"`{name}`", cell(kind), cell(_default(name, field)), cell(text)


def _default(name: str, field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    if name.endswith("bytes"):
        return f"`{value // 2**20}MiB`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        return "section"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in values)
    if schema.get("type") == "array":
        inner = schema.get("items", {}) or {"type": "any"}
        count = f"{schema['maxItems']} × " if "prefixItems" in schema else "list of "
        return count + _type(schema["prefixItems"][0] if "prefixItems" in schema else inner)
    return f"{_NAMES.get(schema.get('type', ''), 'any')}{_range(schema)}"


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" {low:g} to {high:g}"
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ",".join(f" {sign} {schema[word]:g}" for word, sign in words.items() if word in schema)


def _schema_file(root: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **root.model_json_schema()}
    text = json.dumps(_plain(schema), indent=1, ensure_ascii=False) + "\n"
    assert not re.search(r'"gt"|"ge"', text)
    return text


def _plain(value: Any, *, names: bool = False) -> Any:
    """A schema without titles, which repeat the keys; descriptions in one line each.

    Args:
        names: the keys of `value` are names of options.
    """
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: each for name, each in value.items() if names or name not in ("title", "gt")}
    return {
        name: " ".join(each.split())
        if name == "description" and not names
        else _plain(each, names=name in ("properties", "$defs"))
        for name, each in kept.items()
    }
