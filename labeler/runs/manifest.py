"""The manifest of a run, run.json: written once, last, if-absent; it holds what makes two runs the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from labeler import plain_json, storage
from labeler.digests import canonical_json, digest_of, readable_json
from labeler.errors import Refused
from labeler.labels.extensions import PLAIN_VERSION, READABLE_VERSIONS
from labeler.labels.records import DECODING_VERSION
from labeler.prompts import PromptPlan, StoredPlan, plan_from_json
from labeler.runs import layout
from labeler.shards import READER_VERSION
from labeler.vocabulary import Vocabulary


def fingerprint_of(fields: Mapping[str, Any]) -> str:
    """One hex digest over the fields that decide a run's rows."""
    return digest_of(canonical_json(dict(fields)))


@dataclass(frozen=True)
class Manifest:
    """The contents of run.json.

    Attributes:
        fingerprint_fields: what affects the results; the run is only ever continued with equal ones.
        config: the resolved configuration, without secrets.
        versions: packages and interpreter that created the run.
        digests: path in the run folder -> digest, of the files written beside the manifest.
        parent: of a derived run: {"uri", "run_id"} of the run whose rows it replaces in part.
        whole: of a derived run: it writes every unit itself, because none of its parent's rows is one of its own.
    """

    run_id: str
    fingerprint: str
    fingerprint_fields: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    digests: dict[str, str]
    created: str
    parent: dict[str, str] | None = None
    schema_version: int = PLAIN_VERSION
    whole: bool = False

    @staticmethod
    def new(
        fields: Mapping[str, Any],
        *,
        config: Mapping[str, Any],
        versions: Mapping[str, str],
        digests: Mapping[str, str],
        parent: Run | None = None,
        whole: bool = False,
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
            parent={"uri": storage.redact(parent.uri), "run_id": parent.manifest.run_id} if parent else None,
            schema_version=fields.get("schema_version", PLAIN_VERSION),
            whole=whole,
        )

    def to_json(self) -> bytes:
        values = asdict(self)
        if not self.whole:  # labelers that do not know the key read all other runs
            del values["whole"]
        return readable_json(values)

    @staticmethod
    def from_json(data: bytes, *, uri: str) -> Manifest:
        try:
            values = plain_json.parse(data)
            version, newer = values["schema_version"], sorted(values.keys() - Manifest.__dataclass_fields__.keys())
            if version not in READABLE_VERSIONS or newer:
                known = ", ".join(map(str, sorted(READABLE_VERSIONS)))
                why = f"{layout.MANIFEST} has {', '.join(newer)}" if newer else f"schema version {version}, not {known}"
                began = values["versions"].get("labeler", "of an unknown version")
                raise Refused(
                    f"run {storage.redact(uri)} was started by labeler {began}, and this one cannot read it ({why}); "
                    "use the version that began it, or a newer one"
                )
            return Manifest(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{storage.redact(uri)}/{layout.MANIFEST} is not a run manifest: {error}") from None


_DECIDING = ("pillow", "torch", "transformers")


@dataclass(frozen=True)
class Run:
    """A run folder that has a manifest.

    Attributes:
        parent: of a derived run, the run whose rows it replaces in part; it has no plan of its own.
    """

    uri: str
    manifest: Manifest
    parent: Run | None = None

    @property
    def root(self) -> Run:
        """The run that has the plan: this one, or what it derives from in the end."""
        return self.parent.root if self.parent else self

    @property
    def lineage(self) -> tuple[str, ...]:
        """The folder of this run, and of those it derives from, nearest first."""
        return (self.uri, *(self.parent.lineage if self.parent else ()))

    def path(self, relative: str) -> str:
        return storage.join(self.uri, relative)

    def s3_rules(self, *own: str) -> storage.S3Rules:
        """Return how the run's images are read where they are on S3; `own` are URIs of the caller's other objects."""
        source = self.manifest.config.get("input", {})
        parent = self.parent.s3_rules().rules if self.parent else ()
        mine = storage.input_rules(source.get("uri", ()), source.get("s3", {}), own=(self.uri, *own))
        return storage.S3Rules(parent + mine.rules)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_json(plain_json.parse(self.verified(layout.VOCABULARY)))

    def prompts(self) -> PromptPlan:
        """The plan of its detector; that of a user's module is not asked for the module."""
        data, fields = plain_json.parse(self.verified(layout.PROMPTS)), self.manifest.fingerprint_fields
        return StoredPlan(data, fields["prompts"]) if "family_source" in fields else plan_from_json(data)

    @property
    def keep(self) -> tuple[str, ...]:
        return tuple(self.manifest.config["input"]["keep"])

    @property
    def columns(self) -> tuple[str, ...]:
        """The optional columns of its rows, see `labels.extensions`; a unit file may lack those that are null in it."""
        return tuple(self.manifest.fingerprint_fields.get("columns", ()))

    def verified(self, relative: str) -> bytes:
        """A file of the run; Refused when it is not as it was written with the manifest."""
        data = storage.read_bytes(self.path(relative))
        expected = self.manifest.digests.get(relative)
        if digest_of(data) != expected:
            raise Refused(f"{storage.redact(self.path(relative))} was changed after the run was created; restore it")
        return data

    def require_reader(self) -> None:
        """Refuse to label more of a run whose images an earlier reader found.

        Raises:
            Refused: if this version reads shards differently, so that keys, indices or units would not match.
        """
        version = self.root.manifest.fingerprint_fields.get("reader_version", READER_VERSION)
        if version != READER_VERSION:
            raise Refused(
                f"run {storage.redact(self.uri)} was started with reader version {version}, and this labeler reads its "
                f"input by version {READER_VERSION}: you can export, evaluate, review and forget from the run, but to "
                "label, retry, mask or extend it use the labeler that started it, or label into a new output"
            )

    def require_detector(self, verb: str) -> None:
        """Refuse to label images of a run whose boxes are not of one detector of labeler's.

        Args:
            command: what would have been done, for the message.

        Raises:
            Refused: if the run was imported or fused.
        """
        if "imported" in self.manifest.fingerprint_fields:
            raise Refused(
                f"run {storage.redact(self.uri)} was imported, so no detector gives its rows and {verb} cannot add "
                "any; label the images with a model, or import the file again"
            )
        if "fused.runs" in self.manifest.fingerprint_fields:
            raise Refused(
                f"run {storage.redact(self.uri)} was fused from several runs, so no detector gives its rows: "
                f"{verb} the runs that it was made from, and fuse them again"
            )

    @property
    def outgrown(self) -> str:
        """Return what decides this run's rows and is done otherwise by now, so that no rows are added to it; "" if
        nothing.
        """
        now = {"decoding_version": DECODING_VERSION, "reader_version": READER_VERSION}
        then = self.root.manifest.fingerprint_fields
        changed = [name for name in now if then.get(name, now[name]) != now[name]]
        return ", ".join(f"{name} {then[name]} (now {now[name]})" for name in changed)

    def changed_versions(self, versions: Mapping[str, str]) -> str:
        """Return which of the packages that decide pixels and scores are others now, "" if none is."""
        changed = [
            f"{name} {before} (now {versions[name]})"
            for name, before in sorted(self.manifest.versions.items())
            if name in _DECIDING and versions.get(name, before) != before
        ]
        return ", ".join(changed)

    def require_fingerprint(self, fields: Mapping[str, Any]) -> None:
        """Refused, naming every differing field, unless `fields` are those of this run."""
        self.require_reader()
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
    """The run in a folder, with what it derives from; None when the folder has no manifest.

    Raises:
        Refused: its manifest is none, or the run it derives from is not there any more.
    """
    if storage.head(storage.join(uri, layout.MANIFEST)) is None:
        return None
    manifest = Manifest.from_json(storage.read_bytes(storage.join(uri, layout.MANIFEST)), uri=uri)
    return Run(uri, manifest, _open_parent(uri, manifest.parent) if manifest.parent else None)


def require_run(uri: str) -> Run:
    """The run in a folder, which may be a path as people write it.

    Raises:
        Refused: there is none, or as `open_run`.
    """
    run = open_run(storage.absolute_uri(uri))
    if run is None:
        raise Refused(
            f'{storage.redact(uri)} is not a labeler run (no run.json found); pass the output folder of "labeler label"'
        )
    return run


def _open_parent(uri: str, named: Mapping[str, str]) -> Run:
    parent = open_run(storage.restore_user(named["uri"], uri))
    if parent is None or parent.manifest.run_id != named["run_id"]:
        raise Refused(
            f"run {storage.redact(uri)} derives from run {named['run_id']}, which is not in "
            f"{named['uri']} any more; put it back there"
        )
    return parent
