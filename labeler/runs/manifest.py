"""The manifest of a run, run.json: written once, last, if-absent; it holds what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from labeler import storage
from labeler.errors import Refused
from labeler.prompts import Prompts
from labeler.records import READABLE_VERSIONS, SCHEMA_VERSION
from labeler.runs import layout
from labeler.vocabulary import Vocabulary


def digest_of(data: bytes) -> str:
    """blake2b-128, hex: the digest used everywhere in a run."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def readable_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def fingerprint_of(fields: Mapping[str, Any]) -> str:
    """One hex digest over the fields that decide a run's rows."""
    return digest_of(canonical_json(dict(fields)))


@dataclass(frozen=True)
class Manifest:
    """What run.json says.

    Attributes:
        fingerprint_fields: what decides the rows; the run is only ever continued with equal ones.
        config: the resolved configuration, without secrets.
        versions: packages and interpreter that created the run.
        digests: path in the run folder -> digest, of the files written beside the manifest.
    """

    run_id: str
    fingerprint: str
    fingerprint_fields: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    digests: dict[str, str]
    created: str
    parent: str | None = None
    schema_version: int = SCHEMA_VERSION

    @staticmethod
    def new(
        fields: Mapping[str, Any], *, config: Mapping[str, Any], versions: Mapping[str, str], digests: Mapping[str, str]
    ) -> Manifest:
        """A manifest with a fresh run id."""
        return Manifest(
            run_id=uuid.uuid4().hex,
            fingerprint=fingerprint_of(fields),
            fingerprint_fields=dict(fields),
            config=dict(config),
            versions=dict(versions),
            digests=dict(digests),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def to_json(self) -> bytes:
        return readable_json(asdict(self))

    @staticmethod
    def from_json(data: bytes, *, uri: str) -> Manifest:
        try:
            values = json.loads(data)
            version = values["schema_version"]
            if version not in READABLE_VERSIONS:
                known = ", ".join(map(str, sorted(READABLE_VERSIONS)))
                raise Refused(
                    f"run {storage.redact(uri)} has schema version {version}, this labeler reads {known}; "
                    "use the labeler version that wrote it"
                )
            return Manifest(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{storage.redact(uri)}/{layout.MANIFEST} is no run manifest: {error}") from None


@dataclass(frozen=True)
class Run:
    """A run folder that has a manifest."""

    uri: str
    manifest: Manifest

    def path(self, relative: str) -> str:
        return storage.join(self.uri, relative)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_json(json.loads(self._verified(layout.VOCABULARY)))

    def prompts(self) -> Prompts:
        return Prompts.from_json(json.loads(self._verified(layout.PROMPTS)))

    @property
    def keep(self) -> tuple[str, ...]:
        return tuple(self.manifest.config["input"]["keep"])

    def _verified(self, relative: str) -> bytes:
        data = storage.read_bytes(self.path(relative))
        expected = self.manifest.digests.get(relative)
        if digest_of(data) != expected:
            raise Refused(f"{storage.redact(self.path(relative))} was changed after the run was created; restore it")
        return data

    def require_fingerprint(self, fields: Mapping[str, Any]) -> None:
        """Refused, naming every differing field, unless `fields` are those of this run."""
        ours, theirs = dict(fields), self.manifest.fingerprint_fields
        differing = [
            f"{name}: the run has {_short(theirs.get(name))}, the config gives {_short(ours.get(name))}"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        if differing:
            raise Refused(
                f"output {storage.redact(self.uri)} holds run {self.manifest.run_id} with another fingerprint; "
                "its rows would not match. Choose another output, or set these back",
                differing,
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def open_run(uri: str) -> Run | None:
    """The run in a folder, or None when the folder has no manifest."""
    if storage.head(storage.join(uri, layout.MANIFEST)) is None:
        return None
    return Run(uri, Manifest.from_json(storage.read_bytes(storage.join(uri, layout.MANIFEST)), uri=uri))
