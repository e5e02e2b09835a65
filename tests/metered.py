"""A stub detector with all that is counted: batches, passes, halvings, and a request to storage that is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labeler.labels.detections import Detections
from labeler.storage.retries import METER
from tests.stub_detector import MakeStub, StubDetector


@dataclass(frozen=True)
class MakeMetered:
    def __call__(self) -> MeteredDetector:
        return MeteredDetector(MakeStub())


class MeteredDetector(StubDetector):
    """Two passes per image; at its first batch "the memory runs out" and one request is tried again."""

    passes = 2
    memory_halvings = 0
    images_per_forward = 3

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections | str]:
        if not self.memory_halvings:
            self.memory_halvings += 1
            METER.add(retries=1)
        return super().detect_prepared(batch)
