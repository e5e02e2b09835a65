"""Hours and money that a job may take."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from labeler.cli import main
from labeler.config import make_config
from labeler.errors import Incomplete, Refused
from labeler.pipeline.budget import UNLIMITED, Budget, Spending
from labeler.pipeline.label import label
from labeler.pipeline.stopping import stopping
from labeler.runs import open_run, read_snapshot
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.stub_detector import MakeStub


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, None, None), "--stop-after-hours 0: a number above 0"),
        ((math.nan, None, None), "--stop-after-hours nan"),
        ((None, -1, 1), "--max-cost -1"),
        ((None, 5, math.inf), "--price-per-hour inf"),
        ((None, 5, None), "--max-cost needs --price-per-hour"),
    ],
)
def test_a_limit_that_is_none_is_refused(given: tuple[float | None, ...], said: str) -> None:
    with pytest.raises(Refused, match=said):
        Budget.of(*given)


def test_a_budget_that_one_unit_exceeds_is_refused_and_one_that_it_fits_is_not() -> None:
    with pytest.raises(Refused, match=r"--stop-after-hours 0\.005 ends before one unit is done, in about 20 s"):
        Budget.of(0.005, None, None).require_room(20)
    with pytest.raises(Refused, match=r"--max-cost 0\.01 is less than one unit costs, about 0\.02"):
        Budget.of(None, 0.01, 3.6).require_room(20)
    Budget.of(0.006, 0.03, 3.6).require_room(20)
    UNLIMITED.require_room(1e9)


def test_what_is_reached_is_named_as_it_was_given() -> None:
    budget = Budget.of(2, 10, 1)
    assert budget.passed(7199, 9.99) == ""
    assert budget.passed(7200, 0) == "--stop-after-hours 2"
    assert budget.passed(0, 10) == "--max-cost 10"
    assert UNLIMITED.passed(1e12, 1e12) == ""


def test_places_cost_from_look_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    spending = Spending(Budget.of(None, 10, 2))
    for places, seconds in ((0, 3600), (4, 900), (1, 1800)):
        now += seconds
        spending.look(places)
    assert spending.cost == pytest.approx(0 + 4 * 0.25 * 2 + 0.5 * 2)


def test_the_end_of_a_budget_stops_a_job_with_its_reason() -> None:
    def work() -> None:
        with stopping() as signals:
            signals.stop("--max-cost 10")
            while True:
                time.sleep(0.01)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Incomplete, match=r"stopped by --max-cost 10; run the same command again"):
        work()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_budget_below_one_unit_is_exit_code_2_before_anything_is_written(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "input": str(write_tars(tmp_path / "in", shards=1, images=2)), "output": str(tmp_path / "out"),
        "vocabulary": NAMES, "model": {"name": str(checkpoint)},
    }  # fmt: skip
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values))
    assert main(["label", str(config), "--stop-after-hours", "0.0005"]) == 2
    assert capsys.readouterr().err == (
        "labeler: --stop-after-hours 0.0005 ends before one unit is done, in about 6 s\n"
    )
    assert main(["label", str(config), "--dry-run", "--max-cost", "1"]) == 2
    assert not (tmp_path / "out").exists()


class AfterSomeImages(Budget):
    """Is reached when something was detected: a busy machine takes its time to begin."""

    log: Path

    def passed(self, seconds: float, cost: float) -> str:
        return "--max-cost 1" if self.log.exists() and self.log.stat().st_size > 8 else ""


@pytest.mark.slow  # a run and its continuation
@pytest.mark.usefixtures("local_ray")
def test_what_is_begun_is_finished_and_the_next_job_goes_on_without_detecting_anything_twice(
    tmp_path: Path, checkpoint: Path
) -> None:
    values = {
        "input": str(write_tars(tmp_path / "in", shards=2, images=20)), "output": str(tmp_path / "out"),
        "vocabulary": NAMES, "model": {"name": str(checkpoint)}, "unit": {"max_images": 2},
    }  # fmt: skip
    config, log, quiet = make_config(values), tmp_path / "log", Console(quiet=True)
    stub, budget = MakeStub(seconds=0.5, log=str(log)), AfterSomeImages(cost=1.0)
    object.__setattr__(budget, "log", log)
    with pytest.raises(Incomplete, match=r"stopped by --max-cost 1;"):
        label(config, make_detector=stub, console=quiet, budget=budget)
    detected = log.stat().st_size // 2
    run = open_run(str(tmp_path / "out"))
    assert run is not None
    assert 4 < detected < 40
    assert sum(len(table) for table in read_snapshot(run).tables(("status",))) == detected
    assert label(config, make_detector=stub, console=quiet).report.images == 40
    assert log.stat().st_size // 2 == 40
