"""A configuration from whatever a program has: a `Config`, the path of a YAML file, or plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from pydantic import BaseModel

from labeler.config import Config, load_config, make_config
from labeler.errors import Refused

ConfigLike: TypeAlias = "Config | str | PathLike[str] | Mapping[str, Any]"


def as_config(config: ConfigLike, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration, checked as a whole.

    Args:
        config: a `Config`, the path of a YAML file, or a mapping with the sections that such a file has.
        overrides: `section.key=value`, applied last.

    Raises:
        Refused: a key is unknown or a value is wrong (all problems at once), or the file cannot be read.
    """
    if isinstance(config, Config):
        return make_config(_plain(config), overrides) if overrides else config
    if isinstance(config, Mapping):
        return make_config(_plain(config), overrides, where="the config")
    if isinstance(config, str | PathLike):
        return load_config(str(config), overrides)
    raise Refused(f"a config is a Config, the path of a YAML file or a mapping, got {type(config).__name__}")


def _plain(value: Any) -> Any:
    """Convert values to what a YAML file gives: dicts, lists and text in the place of mappings, tuples, paths and
    sections.
    """
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, PathLike) else value
