"""Where the time goes, on a tiny model: the parts have names, none is negative, and together they are the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.config import load_config
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.profiling import PASS_PARTS
from labeler.detectors.profiling import SCORING, instrumented
from labeler.detectors.ranges import Ranges, replaced
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.trial.profile import Profile, describe_profile, parts_of, profile_sample
from tests.inputs import image_bytes

PARTS = parts_of((*PASS_PARTS, SCORING))


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        data = image_bytes(number, width=320, height=240, format="JPEG")
        (folder / f"{number}.jpg").write_bytes(data)
    text = f"input: {folder}\noutput: {tmp_path / 'run'}\nvocabulary: [cat, dog, bus]\nmodel: {{name: {checkpoint}}}\n"
    (tmp_path / "mine.yaml").write_text(text + "prompts: {max_categories: 2}\n")
    return tmp_path / "mine.yaml"


def test_nothing_counted_is_no_parts() -> None:
    assert Ranges(lambda: 0.0).parts == {}


def test_what_is_counted_goes_to_the_innermost_range() -> None:
    readings = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    ranges = Ranges(lambda: next(readings))
    with ranges.part("outer"):
        with ranges.part("inner"):
            pass  # 1 to 3
        with ranges.part("inner"):
            pass  # 7 to 15
    assert ranges.parts == {"outer": 1 + 4 + 16, "inner": 2 + 8}


def test_a_range_is_closed_when_what_is_in_it_raises() -> None:
    readings = iter(range(10))
    ranges = Ranges(lambda: float(next(readings)))
    with pytest.raises(ZeroDivisionError), ranges.part("whole"):
        ranges.within("broken", lambda: 1 / 0)()
    assert ranges.parts == {"whole": 2.0, "broken": 1.0}


def test_what_was_replaced_comes_back() -> None:
    class Thing:
        def __init__(self) -> None:
            self.own = 1

        def method(self) -> int:
            return 2

    thing = Thing()
    with replaced(thing, "own", 10), replaced(thing, "method", lambda: 20):
        assert (thing.own, thing.method()) == (10, 20)
    assert (thing.own, thing.method()) == (1, 2)
    assert list(vars(thing)) == ["own"]


@pytest.mark.parametrize("engine", ["fast", "transformers"])
def test_the_parts_of_either_engine_have_names_and_detections_stay_the_same(checkpoint: Path, engine: str) -> None:
    detector = GroundingDino(checkpoint, ["cat", "dog"], engine=engine, score_floor=0.0, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (before,) = detector.detect([image])
    readings = iter(range(10**6))
    ranges = Ranges(lambda: float(next(readings)))
    with instrumented(detector, ranges), ranges.part("rest"):
        (during,) = detector.detect([image])
    counted = dict(ranges.parts)
    (after,) = detector.detect([image])
    assert ranges.parts == counted
    assert set(counted) - {"rest"} == set(PARTS) - {"read", "decode and hash", "encode and write", "rest"}
    for other in (during, after):
        assert np.array_equal(before.boxes, other.boxes)
        assert np.array_equal(before.scores, other.scores)


def test_the_parts_of_a_sample_are_the_whole_of_its_time(config: Path) -> None:
    job = resolve_job(load_config(config))
    profile = profile_sample(job, plan_input(job.config), images=4)
    assert (profile.images, profile.passes) == (4, 2)
    assert tuple(profile.seconds) == tuple(profile.operations) == PARTS
    assert all(seconds > 0 for seconds in profile.seconds.values())
    assert sum(profile.seconds.values()) == pytest.approx(profile.total_s, rel=0.1)
    assert all(operations >= 0 for operations in profile.operations.values())
    for name in ("image backbone", "encoder: fusion", "encoder: deformable", "encoder: feed-forward", "decoder"):
        assert profile.operations[name] > 0
    assert profile.operations["read"] == profile.operations["decode and hash"] == 0
    assert min(profile.pipelined_s, profile.text_s, profile.roof) > 0


def test_a_profile_is_printed_and_nothing_is_written_but_the_trace(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    assert main(["label", str(config), "--profile", "--time-images", "2", "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in (*PARTS, "sum", "speed", "feeding", "text", "peak"))
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"encoder: fusion", "decode and hash"} <= {event["name"] for event in events}
    assert not (tmp_path / "run").exists()


def test_the_table_has_the_time_of_a_pass_where_something_is_paid_by_the_pass() -> None:
    seconds = dict.fromkeys(PARTS, 0.0) | {"encoder: fusion": 6.0, "image backbone": 2.0}
    operations = dict.fromkeys(PARTS, 0.0) | {"encoder: fusion": 3e9}
    lines = list(describe_profile(Profile(2, 3, PASS_PARTS, seconds, operations, 8.0, 4.0, 0.5, 1e9, {})))
    (fusion,), (backbone,) = ([line for line in lines if line.startswith(n)] for n in ("encoder: fu", "image b"))
    assert fusion.split()[2:] == ["75.0%", "3000.0", "1000.0", "50%"]
    assert backbone.split()[2:] == ["25.0%", "1000.0"]


@pytest.mark.parametrize(
    ("device", "decode", "threads", "said"),
    [
        ("NVIDIA H200", 8.0, 4, "feeding  decode-bound: 5 cores a GPU are needed, a worker has 4 here; give ray.cpus"),
        ("cpu", 8.0, 4, "feeding  decode-bound: 5 cores a worker are needed, a worker has 4 here; give ray.cpus"),
        ("NVIDIA H200", 6.0, 4, "feeding  4 cores decode and resize as fast as the detector works; a worker has 4"),
        ("NVIDIA H200", 0.0, 1, "feeding  1 cores decode and resize as fast as the detector works; a worker has 1"),
    ],
)
def test_a_worker_that_cannot_decode_as_fast_as_it_detects_is_told_how_many_cores_would(
    device: str, decode: float, threads: int, said: str
) -> None:
    """Decoding and resizing are beside the detector; reading, writing and what belongs to no part are neither."""
    seconds = dict.fromkeys(PARTS, 0.0) | {"decode and hash": decode, "resize": 2.0, "read": 50.0, "rest": 50.0}
    seconds |= {"encode and write": 50.0, "normalize": 0.25, "image backbone": 1.0, "decoder": 0.5, "merge": 0.25}
    profile = Profile(
        2,
        3,
        (*PASS_PARTS, SCORING),
        seconds,
        dict.fromkeys(PARTS, 0.0),
        8.0,
        4.0,
        0.5,
        1e9,
        {"device": device},
        threads,
    )
    (line,) = [line for line in describe_profile(profile) if line.startswith("feeding")]
    assert line.startswith(said)


def test_a_profile_without_images_and_a_trace_without_a_profile_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(config), "--profile", "--time-images", "0"]) == 2
    assert main(["label", str(config), "--trace", "t.json"]) == 2
    assert "--trace belongs to --profile" in capsys.readouterr().err
