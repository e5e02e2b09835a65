"""What a training job leaves in its output folder, each thing written at once or not at all.

checkpoint/     a checkpoint in transformers' layout, usable at any time
best/           the one whose validation had the highest AP, averaged over its groups
state.pt        what is needed to continue: weights, optimizer, step, seconds
log.jsonl       one line for each record: losses, learning rate, seconds a step, validation
config.json     the job's resolved configuration, and a digest of the annotations
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from labeler import plain_json, storage
from labeler.digests import as_stored
from labeler.errors import Refused

CHECKPOINT, BEST, STATE, LOG, CONFIG = "checkpoint", "best", "state.pt", "log.jsonl", "config.json"
_TRUTH = "truth"  # beside the sections of the configuration


class Outputs:
    """The output folder, local or on object storage. One process writes."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lines: list[str] = []

    def path(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)

    def read_state(self) -> dict[str, Any] | None:
        """Return what `write_state` wrote last, on the CPU; None where nothing was."""
        if storage.head(self.path(STATE)) is None:
            return None
        data = io.BytesIO(storage.read_bytes(self.path(STATE)))
        found: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        return found

    def write_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        storage.put(self.path(STATE), buffer.getvalue())

    def claim(self, config: Mapping[str, Any], *, may_differ: frozenset[str], truth: str | None = None) -> None:
        """Write the job's configuration, or make sure that the one there is the same but for some sections.

        Args:
            truth: digest of the annotations: the files that a configuration names may change under it. A folder of an
                earlier version has none; it gets this one.

        Raises:
            Refused: the folder holds another job.
        """
        there = storage.head(self.path(CONFIG))
        if there is not None:
            old = plain_json.parse(storage.read_bytes(self.path(CONFIG)))
            differing = sorted(
                k for k in {*old, *config} if k not in {*may_differ, _TRUTH} and old.get(k) != as_stored(config.get(k))
            )
            if old.get(_TRUTH, truth) != truth:
                differing.append("content of its annotations, run or vocabulary")
            if differing:
                raise Refused(
                    f"output {storage.redact(self.uri)} holds a training job with another {', '.join(differing)}; "
                    "choose another output, or delete the folder"
                )
        written = {**config, **({} if truth is None else {_TRUTH: truth})}
        storage.put(self.path(CONFIG), json.dumps(written, indent=1).encode() + b"\n")

    def open_log(self, *, before_step: int) -> None:
        """Keep what the log says about steps before `before_step`: what came after is done again."""
        self._lines = []
        if storage.head(self.path(LOG)) is not None:
            lines = storage.read_bytes(self.path(LOG)).decode().splitlines()
            self._lines = [line for line in lines if line and plain_json.parse(line)["step"] <= before_step]

    def log(self, record: Mapping[str, Any]) -> None:
        """Add one record."""
        self._lines.append(json.dumps(dict(record)))
        storage.put(self.path(LOG), ("\n".join(self._lines) + "\n").encode())

    def best_ap(self) -> float | None:
        """Return the highest AP of a validation in the log; None before the first."""
        return max((ap for line in self._lines if (ap := mean_ap(plain_json.parse(line))) is not None), default=None)

    def write_checkpoint(self, folder: Path, name: str = CHECKPOINT) -> None:
        """Put a local checkpoint folder's files; its weights last, in one piece."""
        files = sorted((f for f in folder.iterdir() if f.is_file()), key=lambda f: f.suffix == ".safetensors")
        for file in files:
            storage.put(self.path(name, file.name), file.read_bytes())


def mean_ap(record: Mapping[str, Any]) -> float | None:
    """Return the AP of a validation, averaged over its groups; None for a record without one."""
    found = [value for name, value in record.items() if name.startswith("ap_")]
    return sum(found) / len(found) if found else None


def print_record(record: Mapping[str, Any]) -> None:
    """One record of the log as a line for people."""
    shown = {k: v for k, v in record.items() if not k.endswith("_encoder")}
    print("  ".join(f"{name} {value:g}" for name, value in shown.items()), flush=True)
