"""Measure a published figure again: label by the protocol, evaluate, and say how it compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from labeler import storage
from labeler.checkpoints import DetectorCheckpoint, model_uri, resolve
from labeler.config import Config, make_config
from labeler.digests import readable_json
from labeler.errors import Refused
from labeler.evaluation.evaluate import evaluate_run
from labeler.evaluation.evaluation import Evaluation
from labeler.labeling.fingerprint import package_versions
from labeler.pipeline.label import label
from labeler.pipeline.session import refusals
from labeler.prompts.families import DEFAULT
from labeler.reproduction.protocol import Expected, Protocol, find_expected, read_protocol
from labeler.runs import Run, read_snapshot, read_unit_file
from labeler.truth.ground_truth import read_ground_truth

FILE = "reproduction.json"  # in the run's folder
SCHEMA_VERSION = 1
MAY_DIFFER = (
    "ray.",
    "input.",
    "model.device=",
    "model.dtype=",
    "model.engine=",
    "model.revision=",
    "model.s3.",
    "model.labels",
)
_PLACE = ("device", "dtype", "engine", "engine_check")
LEAST_AGREEMENT = 0.97  # part of the compared boxes


@dataclass(frozen=True)
class Reproduction:
    """Result of one `reproduce` call.

    Attributes:
        ap: 0 to 100; None where nothing counts.
        boxes: how the boxes of some images compare with transformers' own forward pass; None where that was not asked
            for.
    """

    protocol: Protocol
    model: str
    expected: Expected
    run: Run
    evaluation: Evaluation
    ap: float | None
    boxes: Mapping[str, Any] | None

    @property
    def problems(self) -> list[str]:
        """Return why it is not a reproduction; empty if it is one."""
        figure, tolerance = self.expected.figure, self.protocol.tolerance
        images = self.evaluation.protocol["annotations"]["images"]
        found = []
        if images != self.protocol.images:
            found.append(f"{images:,} annotated images, the benchmark has {self.protocol.images:,}")
        if self.ap is None or abs(self.ap - figure.ap) > tolerance:
            ap = "none" if self.ap is None else f"{self.ap:.2f}"
            found.append(f"AP {ap} is not within {tolerance} of the expected {figure.ap}")
        if self.boxes and self.boxes["part"] < LEAST_AGREEMENT:
            part = f"{self.boxes['part']:.1%} of the boxes"
            found.append(f"{part} of transformers' own forward pass are there, less than {LEAST_AGREEMENT:.0%}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data to attach to an issue; no paths of the machine."""
        score = self.evaluation.score(self.protocol.rules)
        manifest, told = self.run.manifest, self.evaluation.protocol
        return {
            "schema_version": SCHEMA_VERSION,
            "benchmark": self.protocol.benchmark,
            "about": self.protocol.about,
            "model": self.expected.entry,
            "date": datetime.now(UTC).date().isoformat(),
            "verdict": "differs" if self.problems else "reproduced",
            "problems": self.problems,
            "ap": self.ap,
            "expected": {
                "ap": self.expected.figure.ap,
                "tolerance": self.protocol.tolerance,
                "protocol": self.expected.figure.protocol,
                "source": self.expected.figure.source,
                "uncertain": self.expected.figure.uncertain,
            },
            "figures": score.summary() if score else {},
            "boxes": self.boxes,
            "protocol": {
                "rules": self.protocol.rules,
                "decoding": told["decoding"],
                "annotations": told["annotations"] | {"source": storage.basename(told["annotations"]["source"])},
                "images": told["images"],
                "notes": told["notes"],
            },
            "fingerprint": manifest.fingerprint_fields,
            "place": _place(self.run),
            "versions": package_versions() | told["versions"],
        }

    def lines(self) -> list[str]:
        """Return what the command prints."""
        figure = self.expected.figure
        ap = "none" if self.ap is None else f"{self.ap:.2f}"
        head = f"{self.protocol.rules} {'' if 'AP' in self.protocol.rules else 'AP '}{ap}, expected {figure.ap}"
        lines = [
            f"benchmark   {self.protocol.about}",
            f"model       {self.expected.entry}",
            f"figure      {head} within {self.protocol.tolerance} ({figure.protocol}; {figure.source})",
        ]
        if self.boxes:
            lines.append(f"boxes       {self.boxes['in_words']}")
        return [*lines, f"result      {'differs: ' + '; '.join(self.problems) if self.problems else 'reproduced'}"]


def reproduce(
    benchmark: str,
    model: str,
    images_uri: str,
    annotations: str,
    *,
    run_uri: str,
    entry: str | None = None,
    compared: int = 0,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Reproduction:
    """Label the benchmark's images into `run_uri`, or continue there, evaluate, and write `FILE` beside.

    Args:
        benchmark: one of `reproduction.BENCHMARKS`.
        entry: as of `find_expected`.
        compared: images whose boxes are compared with transformers' own forward pass, too; 0 for none.
        overrides: `section.key=value`, of `MAY_DIFFER`.

    Raises:
        Refused: nothing is published for the model, an override would change the figure, or as `label` and `evaluate`.
        Incomplete: as `label`.
    """
    for override in overrides:
        if not override.strip().startswith(MAY_DIFFER):
            raise Refused(f"{override!r} would change the figure; what can be set here: {', '.join(MAY_DIFFER)}")
    protocol = read_protocol(benchmark)
    config = config_of(protocol, model, images_uri, annotations, run_uri, overrides)
    light = resolve(model_uri(model), revision=config.model.revision, weights=False)
    if compared and light.family != DEFAULT:
        raise Refused(f"--images compares with transformers' own forward pass of {DEFAULT.name}; leave it out")
    checkpoint = resolve(model_uri(model), revision=config.model.revision)
    expected = find_expected(protocol, model, checkpoint.digest, entry)
    _require_truth(protocol, annotations)
    outcome = label(config, console=console)
    evaluation = evaluate_run(outcome.run.uri, annotations, rules=_rules(protocol), fixed_ap="Fixed" in protocol.rules)
    score = evaluation.score(protocol.rules)
    ap = score.summary()["AP"] if score else None
    boxes = _compare(config, checkpoint, outcome.run, compared) if compared else None
    made = Reproduction(
        protocol, model, expected, outcome.run, evaluation, None if ap is None else round(100 * ap, 3), boxes
    )
    storage.put(outcome.run.path(FILE), readable_json(made.to_dict()))
    return made


def config_of(
    protocol: Protocol, model: str, images_uri: str, annotations: str, run_uri: str, overrides: Sequence[str] = ()
) -> Config:
    """Return the labeling config of a protocol."""
    values = dict(protocol.config)
    values["vocabulary"] = values["vocabulary"] or annotations
    values |= {"input": images_uri, "output": run_uri, "model": {"name": model}}
    return make_config(values, overrides, where=f"protocol {protocol.benchmark}")


def _require_truth(protocol: Protocol, annotations: str) -> None:
    """Before hours of labeling: Refused where the annotations cannot be read, or are not those of such a benchmark."""
    with refusals():
        truth = read_ground_truth(annotations)
    if (truth.federated is not None) != (_rules(protocol) == "lvis"):
        kind = "LVIS" if truth.federated is None else "COCO"
        raise Refused(f"annotations {truth.source} are not {kind}'s, as {protocol.benchmark} needs; give its own file")


def _rules(protocol: Protocol) -> Any:
    return "lvis" if protocol.rules.startswith("LVIS") else "coco"


def _place(run: Run) -> dict[str, str]:
    """Device, dtype and engine, as a worker said of one unit."""
    snapshot = read_snapshot(run)
    (unit, *_) = ((shard, number) for shard, units in snapshot.progress.units.items() for number in units)
    told = read_unit_file(snapshot.progress.unit_uri(*unit)).schema.metadata or {}
    return {name: told[name.encode()].decode() for name in _PLACE if name.encode() in told}


def _compare(config: Config, checkpoint: DetectorCheckpoint, run: Run, images: int) -> dict[str, Any]:
    from labeler.reproduction.boxes import compare_with_own_forward

    return compare_with_own_forward(config, checkpoint, run, images)
