"""What a job exports to Prometheus through Ray: counters and histograms, counted by the driver from receipts alone."""

from __future__ import annotations

import ray
from ray.util.metrics import Counter, Histogram

from labeler.pipeline.blocks import Receipt
from labeler.pipeline.seen_units import SeenUnits

_RUN = "run"

# Ray puts "ray_" before each name and Prometheus "_total" behind a counter's: ray_labeler_images_total.
COUNTERS = {
    "labeler_images": ("Images that have a row, by status", (_RUN, "status")),
    "labeler_detections": ("Stored detections", (_RUN,)),
    "labeler_masks": ("Stored masks", (_RUN,)),
    "labeler_units": ("Units committed", (_RUN,)),
    "labeler_passes": ("Forward passes, one per image and prompt chunk", (_RUN,)),
    "labeler_retries": ("Requests to storage that were tried again", (_RUN,)),
    "labeler_memory_halvings": ("Times that a batch was halved because the GPU's memory ran out", (_RUN,)),
    "labeler_bytes_read": ("Bytes of images that were read", (_RUN,)),
    "labeler_unit_errors": ("Attempts at a shard or unit that failed and will be repeated", (_RUN,)),
}
HISTOGRAMS = {
    "labeler_stage_seconds": (
        "Seconds per unit, by stage: read, decode, detect, mask, write",
        (_RUN, "stage"),
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0),
    ),
    "labeler_batch_fill": (
        "Share of the places in a unit's batches that had an image",
        (_RUN,),
        (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.999),
    ),
}


def exported_names() -> set[str]:
    """Names at the Prometheus port, without Ray's prefix."""
    return {f"{name}_total" for name in COUNTERS} | {
        f"{name}_{what}" for name in HISTOGRAMS for what in ("bucket", "count", "sum")
    }


class Metrics:
    """Counts each unit once, whatever was killed meanwhile.

    The totals are those of `report.json` where one job without kills labeled the run: what a worker committed just
    before it was killed is counted when the unit comes again, and not at all where it does not.

    Args:
        run_id: the label `run` of everything.
    """

    def __init__(self, run_id: str) -> None:
        self._tags = {_RUN: run_id}
        self._seen = SeenUnits()
        # Behind a server of Ray Client this process exports nothing.
        self._exported = not ray.util.client.ray.is_connected()
        if self._exported:
            self._counters = {name: Counter(name, text, tags) for name, (text, tags) in COUNTERS.items()}
            self._histograms = {
                name: Histogram(name, text, list(bounds), tags) for name, (text, tags, bounds) in HISTOGRAMS.items()
            }

    def receive(self, receipt: Receipt) -> None:
        """Count one receipt."""
        if not self._exported:
            return
        if receipt.error:
            self._add("labeler_unit_errors", 1)
        elif receipt.kind == "unit" and not self._seen.is_repeated(receipt):
            self._count(receipt)

    def _count(self, receipt: Receipt) -> None:
        work = receipt.work
        for status, images in receipt.counts.items():
            self._add("labeler_images", images, status=status)
        self._add("labeler_units", 1)
        self._add("labeler_detections", receipt.detections)
        self._add("labeler_masks", receipt.masks)
        for name in ("passes", "retries", "memory_halvings", "bytes_read"):
            self._add(f"labeler_{name}", getattr(work, name))
        for stage, seconds in {**work.stage_seconds, "write": receipt.write_s}.items():
            if seconds:
                self._histograms["labeler_stage_seconds"].observe(seconds, {**self._tags, "stage": stage})
        if work.batch_fill is not None:
            self._histograms["labeler_batch_fill"].observe(work.batch_fill, self._tags)

    def _add(self, name: str, count: int, **tags: str) -> None:
        if count:
            self._counters[name].inc(count, {**self._tags, **tags})
