"""Screenshots of the HTML pages, of a run made for them: `python -m benchmarks.pictures OUTPUT`.

Draws scenes of shapes and labels them with the shipped checkpoint, in this process and without Ray. Draws `labeler
preview` of ten scenes as preview.jpg (as a PNG it has a megabyte). Writes `labeler report` with ground truth, and
`labeler compare` with a labeling of smaller images. Opens both pages from disk in a headless Chromium at two window
sizes, moves the slider, and downloads thresholds.yaml. Compares the page's counts with the run's Parquet, and exports
with the downloaded thresholds.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import torch
from PIL import Image

from benchmarks.chromium import NoChromium, chromium, eventually, set_window, slide
from benchmarks.without_ray import label_here
from labeler import cli
from labeler.config import make_config
from labeler.errors import LabelerError
from labeler.training import shapes

MODULE = "benchmarks.pictures"
SEED = 2718  # no training or validation scene has it
WINDOWS = {"wide": (1280, 800), "narrow": (420, 860)}
GALLERY = (1100, 640)  # of a wide window: in true colors a larger one full of images has more than 300 kB
SECTIONS = ("overview", "categories", "gallery", "truth")
THRESHOLD = 0.35  # where the slider goes
SHOWN = "orange ring"  # in the gallery
CHOOSE = """
const list = document.getElementById('category');
list.value = [...list.options].find((one) => one.text === arguments[0]).value;
list.dispatchEvent(new Event('change'));
document.querySelector('#gallery .mark.yes').click();
"""
ALL_DRAWN = """
const near = [...document.images].filter((one) => {
  const { top, bottom } = one.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
});
return near.every((one) => one.complete && one.naturalWidth);
"""  # images below the window are loaded when they come near


def make_runs(folder: Path, *, images: int, threads: int) -> None:
    """Scenes, and two runs over them: `run`, and `small`, for which images are made smaller."""
    drawn = shapes.write_data_set(str(folder / "data"), images=images, seed=SEED)
    values = {
        "input": str(folder / "data" / "shards"),
        "vocabulary": drawn.vocabulary,
        "model": {"name": model_in(folder)},
    }
    sizes = {"run": None, "small": {"shortest_edge": 96, "longest_edge": 144}}  # its own are 128 and 192
    for name, size in sizes.items():
        config = make_config(values | {"output": str(folder / name), "detect": {"image_size": size}})
        label_here(config, threads=threads)


def model_in(folder: Path) -> str:
    """Link to the shipped checkpoint from the folder: pages show its path, and none of this machine's folders."""
    (link := folder / "shapes").unlink(missing_ok=True)
    link.symlink_to(Path("models/shapes").resolve())
    return str(link)


def draw_preview(folder: Path) -> None:
    """preview.jpg, what `labeler preview` draws of the same scenes."""
    drawn, picture = folder / "preview.png", folder / "preview.jpg"
    config = f"input: {folder}/data/shards\noutput: {folder}/previewed\nvocabulary: {folder}/data/vocabulary.txt\n"
    (folder / "preview.yaml").write_text(config + f"model: {{name: {folder / 'shapes'}}}\n")
    run_command("preview", str(folder / "preview.yaml"), "--images", "10", "--threshold", "0.3", "--png", str(drawn))
    Image.open(drawn).convert("RGB").save(picture, quality=75, subsampling=0, optimize=True, progressive=True)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def write_pages(folder: Path) -> None:
    """report.html and compare.html, by the commands that everybody has."""
    truth = ["--annotations", str(folder / "data" / "annotations.json"), "--output", str(folder / "report.html")]
    run_command("report", str(folder / "run"), *truth)
    run_command("compare", str(folder / "run"), str(folder / "small"), "--output", str(folder / "compare.html"))


def run_command(*arguments: str) -> None:
    """A `labeler` command, which has to succeed."""
    if code := cli.main(list(arguments)):
        raise LabelerError(f"labeler {arguments[0]} ended with exit code {code}")


def stored_boxes(run: Path, threshold: float) -> int:
    """Boxes with at least that score, as the Parquet says."""
    boxes = f"'{run}/labels/*/*.parquet', unnest(detections) t(d)"
    ((found,),) = duckdb.sql(f"select count(*) from {boxes} where d.score >= {threshold}::float").fetchall()
    return int(found)


def kept_boxes(browser: Any) -> int:
    """Boxes kept, as the page says."""
    return int(re.sub(r"\D", "", browser.find_element("id", "kept").text.split(" of ")[0]) or -1)


def use_report(browser: Any, folder: Path) -> None:
    """Open it, move the slider, take screenshots, download, and check all of that against the run."""
    browser.get((folder / "report.html").as_uri())
    for threshold in (0.1, 0.8, THRESHOLD):
        slide(browser, "#threshold", threshold)
        stored = stored_boxes(folder / "run", threshold)
        eventually(lambda expected=stored: kept_boxes(browser) == expected)
        print(f"slider at {threshold:.2f}: the page keeps {kept_boxes(browser):,} boxes, the Parquet has {stored:,}")
    browser.execute_script(CHOOSE, SHOWN)
    take_pictures(browser, folder, "report", SECTIONS)
    browser.execute_script("document.getElementById('save-thresholds').click()")
    eventually((folder / "thresholds.yaml").exists)
    target = folder / "coco.json"
    options = ["--thresholds", str(folder / "thresholds.yaml"), "--suppress", "off", "--min-side", "0"]
    run_command("export", str(folder / "run"), "--to", "coco", *options, "--output", str(target))
    exported = len(json.loads(target.read_text())["annotations"])
    print(f"thresholds.yaml as downloaded: labeler export took it and wrote {exported:,} annotations")


def take_pictures(browser: Any, folder: Path, page: str, sections: Sequence[str]) -> None:
    """A PNG of each section in each window."""
    for window, (width, height) in WINDOWS.items():
        for section in sections:
            set_window(browser, *(GALLERY if (section, window) == ("gallery", "wide") else (width, height)))
            browser.execute_script(f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})")
            eventually(lambda: browser.execute_script(ALL_DRAWN))
            target = folder / f"{page}-{section}-{window}.png"
            target.write_bytes(true_colors(browser.get_screenshot_as_png()))
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def true_colors(png: bytes) -> bytes:
    """The same pixels as RGB, packed as well as PNG can. A palette of 256 colors once made a yellow heart pink."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="an empty or new folder")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    folder = asked.output.absolute()
    try:
        with chromium(folder) as browser:  # first: without one there is nothing to label for
            make_runs(folder, images=asked.images, threads=asked.threads)
            draw_preview(folder)
            write_pages(folder)
            use_report(browser, folder)
            browser.get((folder / "compare.html").as_uri())
            take_pictures(browser, folder, "compare", ("gallery",))
    except (LabelerError, NoChromium) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
