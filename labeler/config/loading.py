"""Configs read from YAML files and mappings, with `section.key=value` overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labeler.config.whole import Config
from labeler.config_values import read_yaml, validate
from labeler.errors import Refused

# What a run's stored config may say that configs no longer can, by option.
_RETIRED = {"detect.jpeg_decoder": ("nvimgcodec",)}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config file and apply `section.key=value` overrides (values are YAML too).

    Raises:
        Refused: the file is missing or no YAML mapping, a key is unknown, a value is wrong; all problems at once.
    """
    return make_config(read_yaml(Path(path)), overrides, where=str(path))


def make_config(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Validate plain values (as YAML gives them) plus overrides; raises Refused with all problems at once."""
    return validate(Config, values, overrides, where=where)


def config_of_run(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> Config:
    """The config that a run stored, perhaps by an older labeler; raises Refused as `make_config`, and by name for what
    this version cannot do any more."""
    gone = []
    for key, retired in _RETIRED.items():
        section, _, name = key.partition(".")
        value = values.get(section, {}).get(name)
        if value in retired:
            gone.append(f"{key}={value} was retired")
    if gone:
        raise Refused(f"{where} cannot be followed by this labeler: {'; '.join(gone)}")
    return make_config(copy.deepcopy(dict(values)), overrides, where=where)
