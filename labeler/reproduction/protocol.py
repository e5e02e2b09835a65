"""A benchmark's protocol, from the package; and which figure is expected of a checkpoint under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from labeler import plain_yaml
from labeler.catalog.entries import ENTRIES
from labeler.catalog.entry import Figure
from labeler.catalog.listing import find_entry
from labeler.errors import Refused


@dataclass(frozen=True)
class Protocol:
    """The protocol of a benchmark.

    Attributes:
        about: it in a line.
        rules: the name of the rules whose AP counts.
        images: annotated images that it has.
        tolerance: largest difference from the expected AP, 0 to 100, that is a reproduction.
        config: sections of a labeling config; a vocabulary of None is that of the annotations.
        expected: name -> digest of a checkpoint and the figure that it has, beside those of the catalog.
    """

    benchmark: str
    about: str
    rules: str
    images: int
    tolerance: float
    config: Mapping[str, Any]
    expected: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """A figure, and the name of the checkpoint that it was published for."""

    entry: str
    figure: Figure


def read_protocol(benchmark: str) -> Protocol:
    """Return the protocol of one of `reproduction.BENCHMARKS`."""
    text = (resources.files(__package__) / "protocols" / f"{benchmark}.yaml").read_text()
    return Protocol(benchmark, **plain_yaml.parse(text)[0])


def find_expected(protocol: Protocol, model: str, digest: str, entry: str | None = None) -> Expected:
    """Return what is expected of a checkpoint.

    Args:
        model: as the user called it.
        digest: of its files.
        entry: the name of the checkpoint that it is a copy of; None: the model's own.

    Raises:
        Refused: nothing is published for it.
    """
    for name, known in protocol.expected.items():
        if known["digest"] == digest:
            return Expected(name, Figure(protocol.benchmark, known["ap"], known["protocol"], known["source"]))
    found = find_entry(entry or model)
    figure = found.figure(protocol.benchmark) if found else None
    if found is None or figure is None:
        names = [each.model for each in ENTRIES if each.figure(protocol.benchmark)]
        known_here = f"figures are known of {', '.join(names)}" if names else "no figure is in the catalog"
        raise Refused(
            f"{entry or model}: nothing to compare with under {protocol.benchmark}; {known_here}. "
            "For a copy of one of them, in a folder or a bucket, give its name with --entry"
        )
    return Expected(found.model, figure)
