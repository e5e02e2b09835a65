"""Which jobs of a cluster are whose: the submission id, made of the run and a counted attempt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labeler import storage
from labeler.digests import digest_of

_NAME_CHARACTERS = 24
_DIGEST_BYTES = 4


@dataclass(frozen=True)
class Attempt:
    """A job of a run on a cluster.

    Attributes:
        number: counted from 1.
        details: Ray's own; None before it is submitted.
    """

    run: str
    number: int
    details: Any = None

    @property
    def submission_id(self) -> str:
        return f"{self.run}-{self.number}"

    @property
    def runs(self) -> bool:
        """Return whether it is submitted and not over yet."""
        return self.details is not None and not self.details.status.is_terminal()


def run_name(output_uri: str) -> str:
    """Return what the submission ids of a run begin with: the name of its folder, and a digest of its whole address."""
    output = storage.absolute_uri(output_uri).rstrip("/")
    name = re.sub(r"[^A-Za-z0-9]+", "-", storage.basename(output)).strip("-")[:_NAME_CHARACTERS] or "run"
    return f"labeler-{name}-{digest_of(output.encode(), size=_DIGEST_BYTES)}"


def attempts_of(run: str, jobs: Iterable[Any]) -> list[Attempt]:
    """Return the attempts at a run among the jobs of a cluster, in their order."""
    pattern = re.compile(rf"{re.escape(run)}-(\d+)")
    found = ((pattern.fullmatch(job.submission_id or ""), job) for job in jobs)
    return sorted((Attempt(run, int(match[1]), job) for match, job in found if match), key=lambda each: each.number)
