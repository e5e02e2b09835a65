"""What labeling a unit took: counted where it is labeled, stored in its file, and summed by the run's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from labeler import plain_json
from labeler.digests import canonical_json

METADATA_KEY = "work"  # of a unit file


@dataclass
class UnitWork:
    """Sums over the images of one unit, or of many.

    Attributes:
        read_s, decode_s, detect_s, mask_s: seconds per stage; decode and mask sum over threads.
        passes: forward passes, one per image (of tiled ones: per view) and prompt chunk.
        forward passes: batches that the detector ran.
        places: images or views that would have fit into those batches.
        filled: images or views that were in them.
        memory_halvings: times that the batch was halved because the GPU's memory ran out.
        retries: requests to storage that were tried again, by the reader and by the worker, up to the unit's commit.
        bytes_read: of the images.
    """

    read_s: float = 0.0
    decode_s: float = 0.0
    detect_s: float = 0.0
    mask_s: float = 0.0
    passes: int = 0
    forwards: int = 0
    places: int = 0
    filled: int = 0
    memory_halvings: int = 0
    retries: int = 0
    bytes_read: int = 0

    def add(self, other: UnitWork) -> None:
        """Add another unit's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def batch_fill(self) -> float | None:
        """Share of the batches' places that had an image; None where no batch ran."""
        return self.filled / self.places if self.places else None

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        return {"read": self.read_s, "decode": self.decode_s, "detect": self.detect_s, "mask": self.mask_s}

    def summary(self) -> dict[str, Any]:
        """As report.json and the report's page have it."""
        return {
            "passes": self.passes,
            "retries": self.retries,
            "memory_halvings": self.memory_halvings,
            "bytes_read": self.bytes_read,
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in self.stage_seconds.items()},
            "batch_fill": self.batch_fill,
        }

    def to_metadata(self) -> dict[str, str]:
        """As a unit file's metadata."""
        return {METADATA_KEY: canonical_json({k: v for k, v in asdict(self).items() if v}).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> UnitWork:
        """Of a unit file's metadata; nothing where an earlier version wrote none, or what is there is damaged."""
        try:
            found = plain_json.parse((metadata or {}).get(METADATA_KEY.encode(), b"{}"))
            return cls(**{each.name: found[each.name] + 0 for each in fields(cls) if each.name in found})
        except (ValueError, TypeError):
            return cls()


WORK_DONE = pa.struct(
    [pa.field(each.name, pa.float64() if isinstance(each.default, float) else pa.int64()) for each in fields(UnitWork)]
)
