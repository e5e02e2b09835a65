"""What a Ray node exports at its Prometheus port."""

from __future__ import annotations

import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families


def scrape(port: int) -> dict[str, float]:
    """Sums by `name` and `name{label=value}`, over all processes, without the prefix `ray_labeler_`."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("ray_labeler_") or "le" in sample.labels:
                continue
            name = sample.name.removeprefix("ray_labeler_")
            found[name] += sample.value
            for label in sorted({"status", "stage"} & set(sample.labels)):
                found[f"{name}{{{label}={sample.labels[label]}}}"] += sample.value
    return dict(found)
