"""Names per image on a real local Ray, with a real model: the rows are those of the same job in this process."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from labeler.config import Config
from labeler.labeling.recipe import detector_recipe
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.labels.records import ALL_NAMES
from labeler.pipeline.cluster import Workers
from labeler.pipeline.display import JobProgress
from labeler.pipeline.label import label
from labeler.pipeline.session import Caller, _read_settings, _worker_settings, new_run
from labeler.pipeline.shared import Shared
from labeler.pipeline.suspects import Suspect, label_suspects
from labeler.runs import Run, open_run, read_snapshot
from labeler.runs.create import create_run
from labeler.runs.erasure.excluded import read_excluded
from labeler.runs.report import build_report
from tests.deadly_images import DeadlyRecipe
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.labeled_here import label_here
from tests.test_labeling_names import config_of, middle_score, rows_of
from tests.tiled_parts import item

pytestmark = pytest.mark.usefixtures("local_ray")

IMAGES = 24  # of the first shard
KILLS, RAISES, BROKEN, KNOWN, UNKNOWN = range(IMAGES, IMAGES + 5)  # rows of the second


@dataclass(frozen=True)
class Cascade:
    """Attributes:
    cheap: the run that says the names; it does not have all of the images.
    expected: rows of the job that was done in this process.
    """

    folder: Path
    cheap: Run
    score: float
    checkpoint: Path
    expected: list[dict[str, Any]]

    def config(self, output: str, **more: Any) -> Config:
        prompts = {"from": self.cheap.uri, "from_score": self.score}
        return config_of(self.folder, output, self.checkpoint, prompts=prompts, ray={"cpus_per_worker": 1}, **more)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Cascade:
    folder = tmp_path_factory.mktemp("cascade")
    write_tars(folder / "in", shards=1, images=IMAGES)
    odd = {
        "a.png": item(0, np.zeros((30, 40, 3), np.uint8)).data or b"",
        "b.png": item(1, np.full((30, 40, 3), 255, np.uint8)).data or b"",
        "c.png": b"no image",
        "d.png": image_bytes(76),
    }
    (folder / "in/00001.tar").write_bytes(tar_bytes(odd))
    small = {"image_size": {"shortest_edge": 64, "longest_edge": 96}}
    cheap = label_here(config_of(folder, "cheap", checkpoint, detect=small))
    (folder / "in/00001.tar").write_bytes(tar_bytes(odd | {"e.png": image_bytes(77)}))
    cascade = Cascade(folder, cheap, middle_score(rows_of(cheap)), checkpoint, [])
    here = label_here(cascade.config("here"))
    cascade.expected.extend(rows_of(here))
    return cascade


loads: list[float] = []


def load_slowly() -> str:
    loads.append(time.monotonic())
    time.sleep(0.2)
    return "names"


class LoadedSlowly:
    """Comes back as what `load_slowly` returns."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_slowly, ()


def test_units_that_begin_at_the_same_moment_load_a_shared_value_once() -> None:
    value, start = Shared(LoadedSlowly()), threading.Barrier(4)
    loads.clear()

    def load(_: int) -> Any:
        start.wait()
        return value.load()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == ["names"] * 4
    assert len(loads) == 1


class StopNow(Exception):
    """By the caller of a job."""


def stop_at_first(progress: JobProgress) -> None:
    if progress.job_images:
        raise StopNow


def label_on_ray(config: Config, **options: Any) -> Run:
    return label(config, console=Console(quiet=True), **options).run


@pytest.mark.slow  # two jobs
def test_a_job_that_is_stopped_goes_on_to_the_rows_of_this_process(cascade: Cascade) -> None:
    config = cascade.config("stopped")
    with pytest.raises(StopNow):
        label_on_ray(config, caller=Caller(on_progress=stop_at_first))
    run = open_run(config.output.uri)
    assert run is not None
    begun = rows_of(run)
    assert 0 < len(begun) < len(cascade.expected), "stopped too late to show anything"
    run = label_on_ray(config)
    rows = rows_of(run)
    assert rows == cascade.expected
    assert len({tuple(row["asked"]) for row in rows if row["asked"]}) > 2, "the sets differ"
    assert (rows[BROKEN]["status"], rows[BROKEN]["asked"]) == ("decode_error", None)
    assert (rows[UNKNOWN]["status"], rows[UNKNOWN]["asked"], rows[UNKNOWN]["error"]) == ("labeled", None, ALL_NAMES)

    by_receipts = build_report(read_snapshot(run))
    shutil.rmtree(Path(run.uri) / "receipts")
    by_rows = build_report(read_snapshot(run))
    here = open_run(cascade.config("here").output.uri)
    assert here is not None
    for report in (by_receipts, by_rows):
        assert report.errors[ALL_NAMES] == 1
        assert report.passes == build_report(read_snapshot(here)).passes
        assert report.statuses == by_rows.statuses


@pytest.mark.slow  # six starts of the model
def test_images_that_kill_and_raise_are_found_in_isolation_which_asks_the_others_for_their_names(
    cascade: Cascade,
) -> None:
    config = cascade.config("deadly", unit={"max_images": 8})
    job, workers = resolve_job(config), Workers(1, 0, 1)
    run = create_run(config.output.uri, new_run(job, plan=plan_input(config)))
    recipe = DeadlyRecipe(**vars(detector_recipe(job, threads=1)))
    settings = _worker_settings(run, job, workers, recipe)
    read = _read_settings(run, config, read_excluded(run))
    suspect = Suspect(read_snapshot(run).plan[1], 0)
    (receipt,) = label_suspects([suspect], read, settings, workers)
    assert receipt.error is None
    assert receipt.counts == {"quarantined": 1, "detect_error": 1, "decode_error": 1, "labeled": 2}

    rows, expected = rows_of(run), cascade.expected[IMAGES:]
    killed, raised, *others = rows
    asked = expected[1]["asked"]
    assert asked, "it is detected on"
    assert (killed["status"], killed["asked"]) == ("quarantined", expected[0]["asked"])
    assert (raised["status"], raised["asked"]) == ("detect_error", asked)
    assert raised["error"] == f"RuntimeError: cannot look for {tuple(asked)}"
    assert others == expected[2:]
    assert expected[KNOWN - IMAGES]["asked"], "and not all"
