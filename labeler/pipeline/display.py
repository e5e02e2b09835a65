"""The live display of a run: a moving panel in a terminal, one line every few seconds otherwise."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from labeler.labels.records import STATUSES
from labeler.pipeline.blocks import Receipt
from labeler.pipeline.seen_units import SeenUnits
from labeler.pipeline.startup import Startup
from labeler.terminal import message_console, tell

LINE_INTERVAL_S = 5.0
SAY_AGAIN_S = 600.0  # trouble with storage that comes back that much later is printed again
MOST_REASONS = 10  # of what is repeated, each printed once


@dataclass(frozen=True)
class JobProgress:
    """Progress of a job.

    Attributes:
        images: that the run has, those of earlier jobs included.
        total: images of the run; None while shards are left whose number only reading tells.
        job_images, job_detections: that this job has labeled and found.
        job_statuses: status -> images of this job.
        images_per_s: of this job, its start included.
    """

    images: int
    total: int | None
    job_images: int
    job_detections: int
    job_statuses: Mapping[str, int]
    images_per_s: float


class Display:
    """Shows images done and total (or ≥), images per second, time left, statuses, and pieces to be repeated.

    Args:
        done: images that earlier sessions committed.
        images_per_shard: images of each shard of the plan; None where only reading the shard to its end will tell.
        startup: what is done until the first unit comes; ended here.
        on_progress: called with the counts after each receipt.
    """

    def __init__(
        self,
        *,
        done: int,
        images_per_shard: Mapping[str, int | None],
        console: Console | None = None,
        startup: Startup | None = None,
        on_progress: Callable[[JobProgress], None] | None = None,
    ) -> None:
        self._console = console or message_console()
        self._on_progress = on_progress
        self._startup = startup or Startup(self._console)
        self._earlier = done
        self._unknown = {shard_id for shard_id, images in images_per_shard.items() if images is None}
        self._total = sum(images or 0 for images in images_per_shard.values())
        self._statuses: Counter[str] = Counter()
        self._engines: set[str] = set()
        self._seen = SeenUnits()
        self._images = self._detections = self._errors = 0
        self._reasons: set[str] = set()
        self._troubles: dict[str, float] = {}  # when each was printed last
        self._start = self._last_line = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._print_line()

    def receive(self, receipt: Receipt) -> None:
        """Count one receipt; prints a line now and then where there is no terminal."""
        now = time.monotonic()
        if receipt.kind == "unit" and not receipt.error:
            self._startup.end()
        if receipt.error:
            self._errors += 1
            self._say_why(receipt)
        if receipt.engine and receipt.engine not in self._engines:  # once for each kind of worker
            self._engines.add(receipt.engine)
            self.print(f"engine {receipt.engine}")
        if receipt.shard_images is not None and receipt.shard_id in self._unknown:
            self._unknown.discard(receipt.shard_id)
            self._total += receipt.shard_images
        if not self._seen.is_repeated(receipt):
            self._statuses.update(receipt.counts)
            self._images += receipt.images
            self._detections += receipt.detections
        if self._live is None and now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            self._print_line()
        if self._on_progress is not None:
            self._on_progress(self.progress())

    def progress(self) -> JobProgress:
        """The counts so far."""
        done = self._earlier + self._images
        return JobProgress(
            images=done,
            total=None if self._unknown else max(self._total, done),
            job_images=self._images,
            job_detections=self._detections,
            job_statuses=dict(self._statuses),
            images_per_s=round(self._images / max(time.monotonic() - self._start, 1e-9), 3),
        )

    def _say_why(self, receipt: Receipt) -> None:
        """Print why something will be repeated, each reason once: a fault that stays must not be only a number."""
        reason = receipt.error or ""
        if reason not in self._reasons and len(self._reasons) < MOST_REASONS:
            self._reasons.add(reason)
            of_unit = "" if receipt.unit is None else f" unit {receipt.unit:06d}"
            what = f"will repeat shard {receipt.shard_id}{of_unit}: {reason}"
            tell(self._console, what, level="warning", shard=receipt.shard_id, unit=receipt.unit)

    def trouble(self, what: str) -> None:
        """Print what storage refuses while it is tried again, at most once in ten minutes. Any thread may call it."""
        now = time.monotonic()
        if now - self._troubles.get(what, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._troubles[what] = now
            self.print(f"storage is tried again: {what}")

    def print(self, text: str) -> None:
        """A line of its own, above the panel."""
        tell(self._console, text)

    def _print_line(self) -> None:
        now = self.progress()
        tell(
            self._console,
            self.line(),
            images=now.images,
            images_total=now.total,
            job_images=now.job_images,
            job_statuses=now.job_statuses,
            job_detections=now.job_detections,
            images_per_s=now.images_per_s,
        )

    def line(self) -> str:
        """Return what the whole run has, then what this job has done of it."""
        done = self._earlier + self._images
        rate = self._images / max(time.monotonic() - self._start, 1e-9)  # the start-up of the workers counts
        total = f"{max(self._total, done):,}" if not self._unknown else f"≥ {max(self._total, done):,}"
        run, job = [f"images {done:,}/{total}"], [f"images {self._images:,}"]
        if rate and not self._unknown and self._total > done:
            run.append(f"{_duration((self._total - done) / rate)} left")
        if rate:
            job.append(f"{rate:,.3g} images/s")
        job += [f"{status} {self._statuses[status]:,}" for status in STATUSES if self._statuses[status]]
        job.append(f"detections {self._detections:,}")
        if self._errors:
            job.append(f"failed units {self._errors:,} (will retry)")
        return f"run: {', '.join(run)} · this job: {', '.join(job)}"

    def _render(self) -> Text:
        shown = f"{self._startup.current} · {self.line()}" if self._startup.current else self.line()
        return Text(f"{_duration(time.monotonic() - self._start)}  {shown}")


def _duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
