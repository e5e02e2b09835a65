"""How large the page of a large run is, and how soon it is drawn in a Chromium that opens it from disk.

    python -m benchmarks.page_scale FOLDER --output benchmarks/results/page-scale.json

Rows are synthetic and go through the real writer (`benchmarks.export_scale`). They share some hundred images with noise
and edges as photographs have, in one tar. `labeler report` writes the page in a process of its own. Each time is from
asking for the page until it has drawn its first frame with all of its data; "first paint" is when something is shown.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.chromium import chromium, set_window
from benchmarks.export_scale import Stored, in_child, write_run
from benchmarks.machine import machine
from labeler.digests import digest_of

SIDE = 640
WINDOWS = ((1280, 800), (390, 844))
DRAWN = """
const done = arguments[0];
requestAnimationFrame(() => setTimeout(() => done({
  firstPaint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null,
  drawn: performance.getEntriesByName('labeler-drawn')[0].startTime,
}), 0));
"""  # after the frame in which the page's script has run
SLIDE = """
const done = arguments[0], slider = document.getElementById('threshold'), start = performance.now();
slider.value = 0.55;
slider.dispatchEvent(new Event('input', { bubbles: true }));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
"""


def write_pictures(path: Path, count: int, seed: int = 0) -> list[Stored]:
    """A tar of JPEGs that are as large as photographs are: patches, edges, grain."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            patches = _noise(rng, 20, Image.Resampling.BICUBIC)
            edges = _noise(rng, 80, Image.Resampling.NEAREST)
            mixed = Image.blend(patches, edges.filter(ImageFilter.GaussianBlur(1)), 0.25)
            grain = rng.normal(0, 4, (SIDE, SIDE, 1))
            pixels = np.clip(np.asarray(mixed, np.float32) + grain, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    with tarfile.open(path) as tar, path.open("rb") as file:
        found = []
        for member in tar:
            file.seek(member.offset_data)
            found.append(Stored(str(path), member.offset_data, member.size, digest_of(file.read(member.size))))
    return found


def _noise(rng: np.random.Generator, cells: int, smooth: Image.Resampling) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((SIDE, SIDE), smooth)


def names(count: int) -> list[dict[str, Any]]:
    """Categories of two or three words each; every fifth has a synonym."""
    words = (
        "amber brass coral denim ebony fawn green hazel ivory jade khaki linen mauve navy olive pearl rust sage teal"
    )
    things = "anvil basket candle drawer engine fender gasket hammer island jacket kettle ladder mirror needle oven"
    every = [f"{a} {b} {c}" for c in things.split() for b in things.split() for a in words.split()]
    found = []
    for number in range(count):
        name = f"{every[number % len(every)]} {number:05d}"
        found.append({"id": number, "name": name, "phrases": [name, f"{name} set"] if number % 5 == 0 else [name]})
    return found


def measure(folder: Path, categories: int, images: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Write the run and its page, open the page in windows of each size; a row for each window."""
    run = folder / f"run-{categories}"
    if not run.exists():  # one that was kept is measured again
        pictures = write_pictures(folder / "pictures.tar", arguments.pictures)
        write_run(run, images=images, boxes=arguments.boxes, vocabulary=names(categories), stored=pictures)
    seconds, cpu, peak = in_child("-m", "labeler", "report", str(run), "--force")
    page = run / "report.html"
    about = {
        "categories": categories,
        "images": images,
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "report_seconds": round(seconds, 1),
        "report_cpu_seconds": round(cpu, 1),
        "report_peak_mb": round(peak),
    }
    with chromium(folder) as browser:
        rows = [about | open_page(browser, page, *window, folder, arguments.rounds) for window in WINDOWS]
    if not arguments.keep:
        shutil.rmtree(run)
    return rows


def open_page(browser: Any, page: Path, width: int, height: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Open it several times in one browser; the median, and all times."""
    set_window(browser, width, height)
    total, drawn, first, moved = [], [], [], []
    for _ in range(rounds):
        browser.get("about:blank")
        start = time.perf_counter()
        browser.get(page.as_uri())
        answer = browser.execute_async_script(DRAWN)
        total.append(round(time.perf_counter() - start, 3))
        drawn.append(round(answer["drawn"] / 1000, 3))
        first.append(None if answer["firstPaint"] is None else round(answer["firstPaint"] / 1000, 3))
        moved.append(round(browser.execute_async_script(SLIDE) / 1000, 3))
    shown = browser.execute_script("return data.images.length")
    for section in ("overview", "categories", "gallery"):
        browser.execute_script(f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})")
        time.sleep(0.3)
        browser.save_screenshot(str(folder / f"page-{page.parent.name}-{section}-{width}.png"))
    return {
        "window": [width, height],
        "images_shown": shown,
        "median_seconds": sorted(total)[len(total) // 2],
        "seconds": total,
        "script_done_seconds": drawn,
        "first_paint_seconds": first,
        "slider_seconds": moved,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_scale", description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder with room: about 2.5 KB an image")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--categories", type=int, nargs="+", default=[80, 10_000], help="one run per number")
    parser.add_argument("--boxes", type=int, default=30, help="stored boxes an image (default 30)")
    parser.add_argument("--pictures", type=int, default=600, help="images that the rows share (default 600)")
    parser.add_argument("--rounds", type=int, default=5, help="times that a page is opened (default 5)")
    parser.add_argument("--keep", action="store_true", help="keep the runs and their pages")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for categories in arguments.categories:
        for row in measure(arguments.folder, categories, arguments.images, arguments):
            print(json.dumps(row), flush=True)
            rows.append(row)
    if arguments.output:
        asked = {"boxes": arguments.boxes, "pictures": arguments.pictures}
        arguments.output.write_text(json.dumps({"machine": machine(), **asked, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
