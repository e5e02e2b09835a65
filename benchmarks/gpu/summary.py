"""One table of a measurement: what was predicted, what was measured, what failed. `python -m benchmarks.gpu.summary`.

It reads results.jsonl (default: benchmarks/results/gpu.jsonl) and benchmarks/results/predict.json. A figure that a part
should have given and did not shows why, and one that was never asked for "not measured".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import journal
from benchmarks.gpu.plan import BY_NAME, CORRECTNESS

RESULTS = Path(__file__).parent.parent / "results"
NOT_MEASURED = "not measured"
_PREDICTED_FOR = ("H200", "H100")  # the first where nothing was measured
Row = dict[str, Any]
Predicted = Callable[[Mapping[str, Any], str], str]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        part, where: what its rows have.
        show: what is shown of one row.
        predicted: from predict.json and a GPU's name.
    """

    label: str
    part: str
    where: Mapping[str, Any]
    show: Callable[[Row], str]
    predicted: Predicted = field(default=lambda *_: "")

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        wanted = {"part": self.part, **self.where}
        return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _kernels(found: Mapping[str, Any], gpu: str) -> Mapping[str, Any]:
    pair: Mapping[str, Any] = found[f"kernels, {gpu}"]
    return pair


def _image(found: Mapping[str, Any], gpu: str) -> Mapping[str, Any]:
    image: Mapping[str, Any] = found[f"image backbone, the fast engine, {gpu}"]
    return image


def _least_ms(chunks: int, *, backbone: bool = True) -> Predicted:
    def predicted(found: Mapping[str, Any], gpu: str) -> str:
        pairs = chunks * _kernels(found, gpu)["ms_a_pair"]
        return f"at least {pairs + (_image(found, gpu)['ms_a_pair'] if backbone else 0):.2f} ms"

    return predicted


def _least_of(counted: Mapping[str, Any]) -> str:
    return f"at least {counted['ms_a_pair']:.2f} ms"


def _most_images(chunks: int) -> Predicted:
    def predicted(found: Mapping[str, Any], gpu: str) -> str:
        ms = _image(found, gpu)["ms_a_pair"] + chunks * _kernels(found, gpu)["ms_a_pair"]
        return f"at most {1000 / ms:.0f} images/s"

    return predicted


def _launches(found: Mapping[str, Any], gpu: str) -> str:
    return f"{_image(found, gpu)['kernels'] + _kernels(found, gpu)['kernels']:,}"


def _whole_ms(row: Row) -> str:
    return f"{row['ms']['whole']:.2f} ms"


def _pair_ms(row: Row) -> str:
    return f"{row['ms']['in_a_row'] / row['pairs']:.2f} ms"


def _way(name: str, chunks: int, images: int = 1, part: str = "ways") -> Line:
    words = {
        "b": "b: 40 names per chunk, image encoded for each",
        "b'": "b': 40 names per chunk, image encoded once",
        "c": "c: transformers, full chunks, half precision" + (", compiled" if part == "compiled" else ""),
        "d": "d: labeler",
        "e": "e: labeler with CUDA graphs",
    }
    return Line(
        f"{_chunks(chunks)}{f', {images} images at once' if images > 1 else ''}; {words[name]}",
        part,
        {"what": "way", "way": name, "chunks": chunks, "images": images},
        lambda row: f"{row['median_ms']:.2f} ms an image; d is faster by {row['d_is_faster_by']:.2f}",
        _least_ms(chunks) if name == "d" else lambda *_: "",
    )


def _chunks(chunks: int) -> str:
    return f"{chunks} chunk" + ("s" if chunks > 1 else "")


def _labeling(chunks: int, options: Mapping[str, Any], words: str) -> Line:
    return Line(
        f"labeling from JPEG bytes, {_chunks(chunks)}{words}",
        "labeling",
        {"what": "labeling", "chunks": chunks, "options": options},
        lambda row: f"{row['images_per_s']:.1f} images/s",
        _most_images(chunks),
    )


_ROUGH = {"resize": "torch"}
LINES = [
    Line("one product", "checkpoint", {"what": "one product"}, lambda row: _product(row), lambda f, g: _rate(f, g)),
    Line(
        "one copy",
        "checkpoint",
        {"what": "one copy"},
        lambda row: f"{row['tb_per_s']:.2f} TB/s",
        lambda found, gpu: f"{found['gpus'][gpu]['bandwidth'] / 1e12:.1f} TB/s",
    ),
    Line(
        "a worker's start, kernels built",
        "start",
        {"what": "start of a worker", "number": 0},
        lambda row: f"{row['took_s']:.1f} s, first image {row['first_image_s']:.1f} s",
    ),
    Line("image backbone", "stages", {"what": "backbone", "engine": "fast", "images": 1}, _whole_ms, _least_ms(0)),
    Line(
        "image backbone, transformers' modules",
        "stages",
        {"what": "backbone", "engine": "transformers", "images": 1},
        _whole_ms,
        lambda found, gpu: _least_of(found[f"image backbone, transformers' own, {gpu}"]),
    ),
    *(
        Line(
            f"a pair, of {pairs} in a forward pass",
            "stages",
            {"what": "stage", "stage": "pairs", "chunks": chunks, "images": images},
            _pair_ms,
            _least_ms(1, backbone=False),
        )
        for pairs, chunks, images in ((1, 1, 1), (8, 1, 8), (15, 15, 1))
    ),
    Line(
        "kernels of a forward pass, 1 chunk",
        "stages",
        {"what": "stage", "stage": "forward", "chunks": 1, "images": 1},
        lambda row: f"{row['kernels']:,}, host busy {row['ms']['host']:.1f} ms",
        _launches,
    ),
    *(_way(name, chunks) for chunks in (1, 4, 15) for name in ("b", "b'", "c", "d", "e") if name != "e" or chunks == 1),
    _way("d", 1, 8),
    _way("e", 1, 8),
    _way("c", 1, part="compiled"),
    _labeling(1, {}, ""),
    _labeling(1, {"cuda_graphs": True}, ", CUDA graphs"),
    *(_labeling(chunks, _ROUGH, ", resized by torch") for chunks in (1, 4, 15)),
    *(
        Line(
            f"decoding and resizing {size}, one core",
            "decode",
            {"what": "decoding", "size": size},
            lambda row: (
                f"{row['ms']['all, pillow']:.1f} ms an image; {row['ms']['all, torch, draft']:.1f} torch, draft"
            ),
        )
        for size in ("640x480", "1080p", "12 MP")
    ),
    Line(
        "two workers on one GPU, 1 chunk",
        "sharing",
        {"what": "workers on one GPU"},
        lambda row: f"{row['together_images_per_s']:.1f} images/s; one alone {row['alone_images_per_s']:.1f}",
    ),
]


def _product(row: Row) -> str:
    return (
        f"{row['half_tflops']:.0f} TFLOP/s" if "half_tflops" in row else f"{1000 * row['float32_tflops']:.0f} GFLOP/s"
    )


def _rate(found: Mapping[str, Any], gpu: str) -> str:
    return f"{found['gpus'][gpu]['rate'] / 1e12:.0f} TFLOP/s"


def summary(rows: Sequence[Row], predicted: Mapping[str, Any] | None = None) -> str:
    """The table, in Markdown. Of several rows about one thing the last counts."""
    predicted = json.loads((RESULTS / "predict.json").read_text()) if predicted is None else predicted
    device = next((str(row["device"]) for row in reversed(rows) if row.get("device")), "")
    known = [gpu for gpu in _PREDICTED_FOR if gpu in device] if device else list(_PREDICTED_FOR)
    head = f"measured on {device}, commit {rows[-1].get('commit')}" if device else "measured"
    estimated = f"predicted for an {known[0]} (estimated)" if known else "predicted"
    lines = [f"| what | {estimated} | {head} |", "|---|---:|---:|"]
    for part in BY_NAME.values():
        if part.kind == CORRECTNESS:
            lines.append(f"| correct: {part.does} | | {_checks(part.name, rows)} |")
    for line in LINES:
        guess = line.predicted(predicted, known[0]) if known else ""
        lines.append(f"| {line.label} | {guess} | {_cell(line, rows)} |")
    return "\n".join(line.replace("|  |", "| |") for line in lines) + "\n"


def _cell(line: Line, rows: Sequence[Row]) -> str:
    found = line.rows(rows)
    if found:
        try:
            return line.show(found[-1])
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            return f"failed: a row without {error}"
    return _why_not(line.part, rows)


def _why_not(part: str, rows: Sequence[Row]) -> str:
    """Why a part gave no such row: the reasons of its steps, or of its end."""
    here = [row for row in rows if row.get("part") == part]
    if not here:
        return NOT_MEASURED
    told = [row for row in here if row["outcome"] in (journal.FAILED, journal.SKIPPED) and row.get("reason")]
    steps = [row for row in told if row["what"] != journal.PART]
    ends = [row for row in here if row["what"] == journal.PART]
    if not told:
        return "not asked for at this size" if ends else "failed: the measurement was cut off"
    last = (steps or told)[-1]
    return f"{last['outcome']}: {last['reason']}".replace("|", "/")[:160]


def _checks(part: str, rows: Sequence[Row]) -> str:
    """How many checks passed, and the first that did not."""
    here = [row for row in rows if row.get("part") == part and row["what"] != journal.PART]
    passed = [row for row in here if row["outcome"] == journal.PASSED]
    failed = [row for row in here if row["outcome"] == journal.FAILED]
    end = [row for row in rows if row.get("part") == part and row["what"] == journal.PART][-1:]
    if failed:
        why = failed[0].get("reason") or failed[0].get("found") or "see results.jsonl"
        return f"**failed**: {len(failed)} of {len(passed) + len(failed)}; {failed[0]['what']}: {why}".replace("|", "/")
    if end and end[0]["outcome"] != journal.ENDED:
        return f"**{end[0]['outcome']}**: {end[0]['reason']}; {len(passed)} checks had passed"
    skipped = [row for row in here if row["outcome"] == journal.SKIPPED]
    if skipped:
        return f"skipped: {skipped[-1]['reason']}"
    if not end:
        return "**failed**: cut off" if here else NOT_MEASURED
    return f"passed, {len(passed)} checks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS / "gpu.jsonl")
    print(summary(journal.read(parser.parse_args().results)), end="")


if __name__ == "__main__":
    main()
