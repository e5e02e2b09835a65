"""The Grafana dashboard: every query names a metric that a job exports, with labels that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labeler.pipeline.metrics import COUNTERS, HISTOGRAMS, exported_names

DASHBOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "labeler.json"
FUNCTIONS = {"sum", "rate", "histogram_quantile", "label_values"}
LABELS = {label for _, labels, *_ in (*COUNTERS.values(), *HISTOGRAMS.values()) for label in labels} | {"le"}
EXPORTED = {f"ray_{name}" for name in exported_names()}


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query")
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def require_exported(query: str) -> set[str]:
    """The metrics of a query; AssertionError if one is not exported, or a label is unknown."""
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", query))
    labels |= {word for group in re.findall(r"\bby \(([^)]*)\)", query) for word in re.split(r",\s*", group)}
    labels |= set(re.findall(r"label_values\([^,]*, (\w+)\)", query))
    assert labels <= LABELS, f"{labels - LABELS} in {query}"
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|, \w+\)", "", query)
    named = set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - FUNCTIONS
    assert named, f"no metric in {query}"
    assert named <= EXPORTED, f"{named - EXPORTED} in {query}"
    return named


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


@pytest.mark.parametrize("query", queries(dashboard()))
def test_every_query_names_exported_metrics(query: str) -> None:
    require_exported(query)


@pytest.mark.parametrize("query", queries(dashboard()))
def test_a_typo_in_a_query_is_found(query: str) -> None:
    for right, wrong in (("ray_labeler_", "ray_labeller_"), ("run", "runs"), ("_total", "_totals"), ("_sum", "_sums")):
        typo = query.replace(right, wrong)
        if typo != query:
            with pytest.raises(AssertionError):
                require_exported(typo)


def test_every_exported_metric_is_shown_and_panels_do_not_overlap() -> None:
    shown = {name for query in queries(dashboard()) for name in require_exported(query)}
    assert {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in shown} == {
        f"ray_{name}" for name in (*COUNTERS, *HISTOGRAMS)
    }
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    page = (Path(__file__).parent.parent / "docs" / "guides" / "observe.md").read_text()
    listed = {
        name: tuple(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.M)
    }
    wanted = {f"ray_{name}_total": labels[1:] for name, (_, labels) in COUNTERS.items()}
    assert listed == wanted | {f"ray_{name}": labels[1:] for name, (_, labels, _) in HISTOGRAMS.items()}
