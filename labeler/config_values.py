"""Plain values of a config, as YAML and `section.key=value` overrides give them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from labeler import plain_yaml
from labeler.errors import Refused, did_you_mean
from labeler.storage import printable, read_regular, redact

MAX_CONFIG_BYTES = 4 * 1024 * 1024  # a list of 100 thousand names is ~2 MB; anything larger is not a config
_PLAIN_KEY = {"input": "uri", "output": "uri", "vocabulary": "name"}  # what a plain string in the section's place means

_NUMBER, _WHOLE, _SWITCH = "a number", "a whole number", "true or false"
_TYPES = {  # pydantic's name of a problem -> what the value must be
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
}
_LIMITS = {"ge": "of at least", "gt": "above", "le": "up to", "lt": "below"}

Model = TypeVar("Model", bound=BaseModel)


def validate(root: type[Model], values: Mapping[str, Any], overrides: Sequence[str], *, where: str) -> Model:
    """Return plain values plus overrides as a config of type `root`; raises Refused with all problems at once."""
    merged: dict[str, Any] = dict(values)
    for override in overrides:
        _apply_override(merged, override)
    try:
        return root.model_validate(merged)
    except ValidationError as error:
        raise _refusal(error, where, root) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; Refused when there is none. No aliases, no tags, bounded in size."""
    try:
        data = read_regular(path, MAX_CONFIG_BYTES + 1, or_shell_pipe=True)
        if len(data) > MAX_CONFIG_BYTES:
            raise Refused(f"config {path} is larger than {MAX_CONFIG_BYTES} bytes; a config is a small YAML file")
        values = plain_yaml.parse(data.decode("utf-8-sig"))[0]
    except OSError as error:
        raise Refused(f"config {path} cannot be read: {error.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise Refused(f"config {path} is not UTF-8 text; give the path of a YAML file") from None
    except plain_yaml.NotPlainYaml as error:
        raise Refused(f"config {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        got = type(values).__name__
        raise Refused(f"config {path} must be a mapping with input, output, vocabulary and model, got {got}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` into plain values, in place."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise Refused(
            f"override {redact(override)!r} must look like section.key=value, for example detect.score_floor=0.1"
        )
    try:
        value = plain_yaml.parse(text)[0] if text.strip() else ""
    except plain_yaml.NotPlainYaml:
        value = text  # s3://b/{000..009}.tar and the like are plain text
    if key in _PLAIN_KEY and isinstance(values.get(key), dict) and isinstance(value, str):
        path = [key, _PLAIN_KEY[key]]  # output=URI keeps the section's other keys
    if path[-1] in ("uri", "input", "output") and not isinstance(value, str | list):
        value = text  # an unquoted brace pattern parses as a YAML mapping
    here = values
    for depth, name in enumerate(path[:-1]):
        inner = here.get(name)
        if isinstance(inner, str | list) and depth == 0 and name in _PLAIN_KEY:
            inner = (
                {_PLAIN_KEY[name]: inner} if isinstance(inner, str) or name != "vocabulary" else {"categories": inner}
            )
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise Refused(f"override {redact(override)!r}: {'.'.join(path[: depth + 1])} is a value, not a section")
        here[name] = dict(inner)
        here = here[name]
    here[path[-1]] = value


def _refusal(error: ValidationError, where: str, root: type[BaseModel]) -> Refused:
    """Return pydantic's problems with a config of type `root` as one `Refused`, one line per problem."""
    lines = []
    for problem in error.errors(include_url=False):
        location = redact(printable(".".join(str(part) for part in problem["loc"])))
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {location}{_near_key(problem['loc'], root)}")
        elif problem["type"] == "missing":
            lines.append(f"{location} is missing")
        elif problem["input"] is None and problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
            lines.append(f"{location} is empty; indent its keys below it")
        else:
            got = redact(repr(problem["input"]))
            message = _plain(problem["type"], _field(problem["loc"], root)) or problem["msg"]
            message = redact(printable(message.removeprefix("Value error, ")))
            lines.append(f"{location}: {message}, got {got if len(got) < 80 else got[:77] + '...'}")
    lines = list(dict.fromkeys(lines))
    if len(lines) == 1:
        return Refused(f"{where}: {lines[0]}")
    return Refused(f"{where}: {len(lines)} problems", lines)


def _near_key(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """`; did you mean ...?` for an unknown key, from the keys of its section."""
    model = _section(location, root)
    if model is None:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    return did_you_mean(str(location[-1]), known) or f"; known here: {', '.join(known)}"


def _section(location: tuple[int | str, ...], root: type[BaseModel]) -> type[BaseModel] | None:
    """Return the section that has the last part of a location as its key; None if there is none."""
    model = root
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is None:
            return None
        model = inner
    return model


def _field(location: tuple[int | str, ...], root: type[BaseModel]) -> FieldInfo | None:
    section = _section(location, root)
    return section.model_fields.get(str(location[-1])) if section and location else None  # of several keys: none


def _plain(kind: str, field: FieldInfo | None) -> str:
    """Return what a value of another type must be, with the limits of its field; empty for other problems."""
    what = _TYPES.get(kind)
    if what is None:
        return ""
    marks = field.metadata if field else []
    limits = {name: getattr(mark, name) for mark in marks for name in _LIMITS if hasattr(mark, name)}
    if limits.keys() == {"ge", "le"}:
        return f"must be {what} from {limits['ge']:,} to {limits['le']:,}"
    return f"must be {what}{' and'.join(f' {_LIMITS[name]} {limit:,}' for name, limit in limits.items())}"
