"""Draw docs/images/speed.png: seconds per image of the ways in `benchmarks.forward`, from all of its result files.

    python -m benchmarks.plot

A panel for each device and image size, a column for each number of prompt chunks; points are medians, bars the whole
range of the rounds. Hollow points were extrapolated from a few passes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

WAYS = {
    "a": ("one pass per name", "#999999"),
    "b": ("40 names per chunk", "#d08030"),
    "c": ("full chunks", "#4477aa"),
    "d": ("labeler", "#228833"),
}
DOTS_PER_INCH = 100


@dataclass(frozen=True)
class Point:
    """One way with a number of chunks, in one file."""

    panel: str
    chunks: int
    names: int
    way: str
    median_s: float
    low_s: float
    high_s: float
    extrapolated: bool


def read_points(files: Iterable[Path]) -> list[Point]:
    """All points of result files of `benchmarks.forward`."""
    return [point for file in files for point in _points(json.loads(file.read_text()))]


def _points(result: dict[str, Any]) -> Iterable[Point]:
    height, width = result["image"]
    machine = result["machine"]
    cores = "" if machine["torch_threads"] is None or "NVIDIA" in machine["device"] else f", {machine['cpus']} cores"
    panel = f"{machine['device']}{cores}, {width} x {height}"
    for name, counted in result.items():
        if not name.endswith(" chunks"):
            continue
        for way, row in counted["ways"].items():
            seconds = row["seconds"]
            yield Point(
                *(panel, int(name.split()[0]), counted["names"], way),
                *(row["median_s"], min(seconds), max(seconds), row["extrapolated"]),
            )


def draw(points: list[Point], target: Path) -> None:
    """Write the image, some tens of kilobytes."""
    panels: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        panels[point.panel].append(point)
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(7.2 * len(panels), 4), squeeze=False, layout="constrained", dpi=DOTS_PER_INCH
    )
    for axis, (title, here) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, title, here)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Software": None}, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def _panel(axis: Any, title: str, points: list[Point]) -> None:
    columns = sorted({point.chunks for point in points})
    names = {point.chunks: point.names for point in points}
    for number, (way, (label, colour)) in enumerate(WAYS.items()):
        for point in (point for point in points if point.way == way):
            x = columns.index(point.chunks) + 0.16 * (number - 1.5)
            beside = [[point.median_s - point.low_s], [point.high_s - point.median_s]]
            fill = "white" if point.extrapolated else colour
            axis.errorbar(x, point.median_s, beside, fmt="o", color=colour, mfc=fill, capsize=4, ms=7, label=label)
            seconds = f"{point.median_s:,.0f}" if point.median_s >= 100 else f"{point.median_s:.3g}"
            axis.annotate(f" {seconds} s", (x, point.median_s), xytext=(6, -3), textcoords="offset points")
    axis.set_yscale("log")
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_xticks(range(len(columns)), [_column(chunks, names[chunks]) for chunks in columns])
    axis.set_ylabel("seconds per image")
    axis.set_title(title, fontsize=10)
    axis.grid(axis="y", alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _column(chunks: int, names: int) -> str:
    return f"{names} names in {chunks} chunk{'s' if chunks > 1 else ''}"


def main(argv: list[str] | None = None) -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=here / "results", help="folder with forward-*.json")
    parser.add_argument("--output", type=Path, default=here.parent / "docs" / "images" / "speed.png")
    arguments = parser.parse_args(argv)
    files = sorted(arguments.results.glob("forward-*.json"))
    if not files:
        parser.error(f"no forward-*.json in {arguments.results}; python -m benchmarks.forward writes them")
    draw(read_points(files), arguments.output)
    print(f"{arguments.output}: {len(files)} files, {arguments.output.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
