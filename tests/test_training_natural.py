"""Backgrounds with the statistics of photographs: the same for a seed, and the objects before them unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycocotools.mask
import pytest

from jobs import make_shapes
from labeler import checkpoints
from labeler.detectors.preprocess import Preprocessing
from labeler.errors import Refused
from labeler.training import shapes
from labeler.training.config import load_training_job, make_training_job
from labeler.training.examples import ShapesSource
from labeler.training.job import MAY_DIFFER, check_job
from labeler.training.outputs import Outputs
from labeler.training.shapes import Natural, draw_scene, natural_background
from labeler.training.validation import shapes_validation
from tests.training_parts import job_values

CONFIGS = Path(__file__).parent.parent / "configs"
SCENES = range(6)

# Of scenes 0, 1 and 2 of seed 7 before there were such backgrounds.
EARLIER_SHAPES = [(288, 192, 3), (192, 288, 3), (320, 320, 3)]
EARLIER_IDS = [
    [23, 18, 13, 29, 55],
    [28, 11, 37, 46, 71, 25, 24, 43, 35, 46, 47, 24],
    [4, 70, 13, 3, 21, 11, 38, 17, 27],
]
EARLIER_BOXES = [[79.0, 141.0, 119.0, 179.0], [48.0, 108.0, 84.0, 144.0], [251.0, 0.0, 302.0, 48.0]]


def objects(scene: shapes.Scene) -> list[object]:
    return [scene.boxes_xyxy.tolist(), scene.category_ids.tolist(), scene.masks]


def background(scene: shapes.Scene) -> npt.NDArray[np.float64]:
    """(pixels, 3) of what no object covers."""
    covered = np.stack([pycocotools.mask.decode(mask) for mask in scene.masks]).any(0)
    return scene.image[~covered].astype(float)


def slope(pixels: npt.NDArray[np.float32]) -> float:
    """Exponent of the power spectrum over the spatial frequency, of the brightness."""
    side = len(pixels)
    window = np.hanning(side)[:, None] * np.hanning(side)[None]
    gray = pixels.mean(-1)
    power = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) * side] * 2))
    rings = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (2, 4, 8, 16, 32)]
    return float(np.polyfit(np.arange(5) * np.log(2), np.log(rings), 1)[0])


def test_a_natural_background_is_the_same_for_a_generator_and_differs_between_two() -> None:
    first, again, other = (natural_background(np.random.default_rng(seed), 90, 140) for seed in (3, 3, 4))
    assert first.shape == (90, 140, 3)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 <= min(first.min(), other.min()) <= max(first.max(), other.max()) <= 255


def test_the_power_spectrum_falls_with_the_square_of_the_frequency_or_faster() -> None:
    """As that of photographs, whose exponents are around -2 and below it where a part is out of focus."""
    found = [slope(natural_background(np.random.default_rng(seed), 128, 128)) for seed in range(30)]
    assert -3.3 < float(np.median(found)) < -1.5
    assert np.std(found) > 0.2, "backgrounds of one kind only"


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_fractal_noise_has_the_spectrum_that_it_is_asked_for(exponent: float) -> None:
    noise = shapes.natural._spectrum(np.random.default_rng(1), 128, 128, exponent)
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((0, 1), abs=1e-3)
    assert slope(noise[..., None]) == pytest.approx(-2 * exponent, abs=0.35)


def test_brightness_and_color_vary_far_more_than_on_plain_backgrounds() -> None:
    plain, natural = (
        np.concatenate([background(draw_scene(9, i, background=behind)) for i in range(12)])
        for behind in (None, Natural(1.0, 9))
    )
    assert (plain.mean(1) < 90).mean() < 0.01
    assert (natural.mean(1) < 90).mean() > 0.15
    assert np.ptp(natural, axis=1).mean() > 1.5 * np.ptp(plain, axis=1).mean()


def test_the_objects_are_those_of_the_plain_scene_whatever_is_behind_them() -> None:
    for index in SCENES:
        plain, natural = draw_scene(7, index), draw_scene(7, index, background=Natural(1.0, 7))
        assert objects(plain) == objects(natural)
        assert np.abs(background(plain).mean(0) - background(natural).mean(0)).max() > 1
        inside = pycocotools.mask.decode(plain.masks[-1]).astype(bool)
        assert np.abs(plain.image[inside].astype(int) - natural.image[inside]).mean() < 25, "edges alone differ"


def test_scenes_without_the_option_are_those_of_earlier_versions() -> None:
    """Figures in the docs were measured on them."""
    drawn = [draw_scene(7, index) for index in range(3)]
    assert [scene.image.shape for scene in drawn] == EARLIER_SHAPES
    assert [scene.category_ids.tolist() for scene in drawn] == EARLIER_IDS
    assert [scene.boxes_xyxy[0].tolist() for scene in drawn] == EARLIER_BOXES


def test_the_share_says_how_many_scenes_have_it_and_each_is_the_same_when_drawn_again() -> None:
    half = Natural(0.5, 1)
    changed = [not np.array_equal(draw_scene(1, i).image, draw_scene(1, i, background=half).image) for i in range(24)]
    assert 6 <= sum(changed) <= 18
    again = Natural(0.5, 1)
    shapes.natural._from_pool.cache_clear()
    for index in SCENES:
        one, two = (draw_scene(1, index, background=behind) for behind in (half, again))
        assert np.array_equal(one.image, two.image)
    assert np.array_equal(draw_scene(1, 3, background=Natural(0.0, 1)).image, draw_scene(1, 3).image)


def test_seeds_have_pools_of_their_own_so_that_validation_shows_no_background_of_training() -> None:
    one, again, other = (Natural(1.0, seed)(np.random.default_rng(0), 80, 80) for seed in (2, 2, 3))
    assert one is not None
    assert other is not None
    assert np.array_equal(one, again)
    assert np.abs(one - other).mean() > 5


def test_scenes_larger_than_the_pool_s_backgrounds_are_covered() -> None:
    scene = draw_scene(3, 0, sizes=[(500, 420)], background=Natural(1.0, 3))
    assert scene.image.shape == (420, 500, 3)
    assert background(scene).std() > 1


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(Refused, match=r"natural=.* is not a share"):
        Natural(share)


def test_radii_make_objects_smaller_and_larger() -> None:
    def sizes(radii: tuple[float, float]) -> npt.NDArray[np.float32]:
        drawn = [draw_scene(4, i, sizes=[(192, 192)], max_objects=3, radii=radii).boxes_xyxy for i in range(25)]
        boxes = np.concatenate(drawn)
        return (boxes[:, 2:] - boxes[:, :2]).max(1)

    small, usual, large = sizes((0.05, 0.08)), sizes(shapes.RADII), sizes((0.3, 0.5))
    assert small.max() < 192 * 0.18 < np.median(usual) < 192 * 0.5 < np.median(large)


@pytest.mark.parametrize("radii", [(0.01, 0.2), (0.2, 0.2), (0.3, 0.2), (0.1, 0.9), (0.02, 0.05)])
def test_radii_that_leave_an_object_no_place_are_refused(radii: tuple[float, float]) -> None:
    with pytest.raises(Refused, match=r"radii=\[.*\] is not valid"):
        draw_scene(0, 0, radii=radii, sizes=[(192, 192)])


# In training


def test_batches_have_them_and_are_the_same_in_every_process() -> None:
    preprocessing = Preprocessing.of(checkpoints.resolve(CONFIGS.parent / "models" / "shapes"), None)

    def source(natural: float) -> ShapesSource:
        return ShapesSource(preprocessing, shapes.SEEN, seed=6, natural=natural)

    plain, natural = source(0.0).batch(2, 4, slice(0, 4)), source(1.0).batch(2, 4, slice(0, 4))
    later = source(1.0).batch(2, 4, slice(2, 4))
    for one, two in zip(plain, natural, strict=True):
        assert np.array_equal(one.boxes, two.boxes)
        assert not np.array_equal(one.pixels, two.pixels)
    for one, two in zip(natural[2:], later, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
    with pytest.raises(Refused, match="is not valid"):
        ShapesSource(preprocessing, shapes.SEEN, seed=6, radii=(0.3, 0.2))


def test_validation_may_have_them() -> None:
    plain, natural = shapes_validation(4, 3), shapes_validation(4, 3, natural=1.0)
    for one, two in zip(plain.images, natural.images, strict=True):
        assert np.array_equal(one.boxes, two.boxes)
        assert not np.array_equal(one.pixels, two.pixels)


def test_a_job_says_what_it_draws_and_one_of_an_earlier_version_can_be_resumed(tmp_path: Path) -> None:
    def claim(**drawn: object) -> None:
        job = make_training_job(job_values(tmp_path / "out", data={"shapes": {"seed": 3, **drawn}}))
        Outputs(job.output).claim(job.model_dump(mode="json"), may_differ=MAY_DIFFER)

    claim()
    config = tmp_path / "out" / "config.json"
    written = json.loads(config.read_text())["data"]["shapes"]
    assert written == {"seed": 3, "combinations": "seen", "images": None, "max_objects": 12}, "as earlier versions did"
    claim(natural=0.0)
    for drawn in ({"natural": 0.5}, {"radii": [0.05, 0.3]}):
        with pytest.raises(Refused, match="another data"):
            claim(**drawn)
    config.unlink()
    claim(natural=0.5)
    claim(natural=0.5)
    assert json.loads(config.read_text())["data"]["shapes"]["natural"] == 0.5


def test_a_job_whose_radii_make_no_sense_is_refused_before_it_starts(tmp_path: Path) -> None:
    job = make_training_job(job_values(tmp_path / "out", data={"shapes": {"seed": 3, "radii": [0.5, 0.1]}}))
    with pytest.raises(Refused, match="radii"):
        check_job(job)
    assert not (tmp_path / "out").exists()


def test_the_shipped_configuration_never_shows_what_is_held_out() -> None:
    job = load_training_job(CONFIGS / "train_shapes_natural.yaml")
    assert job.data.shapes is not None
    assert job.data.shapes.combinations == "seen"
    assert 0 < job.data.shapes.natural < 1
    assert job.validation.shapes is not None
    assert job.validation.shapes.natural > 0


def test_the_command_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--images", "2", "--size", "96x64", "--format", "png"]
    assert make_shapes.main([str(tmp_path / "plain"), *command]) == 0
    assert make_shapes.main([str(tmp_path / "natural"), *command, "--natural", "1"]) == 0
    truths = [json.loads((tmp_path / name / "annotations.json").read_text()) for name in ("plain", "natural")]
    assert truths[0]["annotations"] == truths[1]["annotations"]
    assert "natural" not in truths[0]["info"]
    assert truths[1]["info"]["natural"] == 1
    tars = [(tmp_path / name / "shards" / "shapes-000000.tar").read_bytes() for name in ("plain", "natural")]
    assert tars[0] != tars[1]
    assert make_shapes.main([str(tmp_path / "x"), *command, "--natural", "2"]) == 2
    assert "natural=2.0 is not a share" in capsys.readouterr().err
