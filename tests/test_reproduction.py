"""`labeler reproduce`: its protocols, what it expects, and the whole command on the shipped checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from labeler import checkpoints
from labeler.cli import main
from labeler.config import Config
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.own_forward import BEST, OwnForward, compare_boxes
from labeler.errors import Refused
from labeler.evaluation.collector import why_not_fixed
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.reproduction import BENCHMARKS
from labeler.reproduction.protocol import find_expected, read_protocol
from labeler.reproduction.reproduce import FILE, config_of, reproduce
from labeler.training.shapes import write_data_set
from labeler.vocabulary import Vocabulary
from tests.detector_parts import VOCABULARY, photo

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "models" / "shapes"


def config(benchmark: str) -> Config:
    return config_of(read_protocol(benchmark), "org/name", "images", "truth.json", "run")


def test_cocos_protocol_is_that_of_the_published_figure() -> None:
    values = yaml.safe_load((ROOT / "configs" / "coco_zero_shot.yaml").read_text())
    protocol, image_size = read_protocol("coco"), values["detect"].pop("image_size")
    assert protocol.config == {"vocabulary": values["vocabulary"], "detect": values["detect"]}
    assert image_size == {"shortest_edge": 800, "longest_edge": 1333}  # the published checkpoint's own
    assert config("coco").detect.image_size is None


def test_lvis_is_measured_without_a_floor_and_a_cap_and_labeled_with_both() -> None:
    detect = config("lvis-minival").detect
    assert (detect.score_floor, detect.max_detections, why_not_fixed(detect.model_dump())) == (0, 0, "")
    assert "detect" not in yaml.safe_load((ROOT / "configs" / "lvis.yaml").read_text())


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_benchmark_has_a_protocol(benchmark: str) -> None:
    protocol = read_protocol(benchmark)
    assert protocol.images > 0
    assert 0 < protocol.tolerance <= 1
    assert config(benchmark).output.uri == "run"
    assert config("shapes").vocabulary == "truth.json"


def test_the_figure_is_the_catalogs_by_name_or_by_the_name_that_a_copy_is_given() -> None:
    protocol, tiny = read_protocol("coco"), "IDEA-Research/grounding-dino-tiny"
    assert find_expected(protocol, tiny, "").figure.ap == 48.4
    assert find_expected(protocol, "my/folder", "", tiny).entry == tiny
    with pytest.raises(Refused, match=r"^my/folder: nothing to compare with under coco; figures are .*--entry$"):
        find_expected(protocol, "my/folder", "")
    shapes = read_protocol("shapes")
    digest = checkpoints.resolve(SHAPES).digest
    assert find_expected(shapes, "anywhere", digest).entry == "models/shapes"
    with pytest.raises(Refused, match="no figure is in the catalog"):
        find_expected(shapes, "anywhere", "")


def test_what_is_wrong_is_one_line_before_anything_is_labeled(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    truth.write_text(json.dumps({"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}))
    words = ["--images-folder", str(tmp_path), "--output", str(tmp_path / "run"), "--annotations", str(truth)]
    copy = ["--entry", "IDEA-Research/grounding-dino-tiny"]
    for more, message in (
        (["coco", str(checkpoint)], "nothing to compare with under coco"),
        (["coco", "/no/such/folder"], "checkpoint folder /no/such/folder does not exist"),
        (["coco", str(checkpoint), "detect.score_floor=0.1"], "'detect.score_floor=0.1' would change the figure"),
        (["coco", str(checkpoint), "--images", "-1"], "--images is 0 or more, got -1"),
        (["coco", str(checkpoint), *copy, "--annotations", "none.json"], "none.json"),
        (["lvis-minival", str(checkpoint), *copy], "truth.json are not LVIS's, as lvis-minival needs"),
    ):
        assert main(["reproduce", *more[:2], *words, *more[2:]]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_transformers_own_forward_has_the_boxes_of_the_detector(mm_folder: Path) -> None:
    vocabulary = Vocabulary("no negative", tuple(c for c in VOCABULARY.categories if not c.negative))
    prompts = pack(vocabulary, Tokenizer.load(mm_folder), max_categories=2)
    detector = GroundingDino(
        mm_folder, prompts, device="cpu", threads=1, score_floor=0, max_detections=0, assignment="flattened", nms_iou=1
    )
    own = OwnForward(checkpoints.resolve(mm_folder), prompts, torch.device("cpu"))
    images = [photo(1), photo(2, 120, 80)]
    pairs = []
    for image, found in zip(images, detector.detect(images), strict=True):
        best = own.best(image)
        assert len(best) == BEST
        pairs.append((best, found))
    compared = compare_boxes(pairs, least_iou=0.99, score_error=1e-3)
    assert compared.compared == 2 * BEST
    assert compared.part > 0.99
    assert compared.box_error < 0.05
    renamed = [(expected, replace(found, category_ids=found.category_ids[::-1])) for expected, found in pairs]
    assert compare_boxes(renamed, least_iou=0.99, score_error=1e-3).part < 0.9


def test_a_box_is_found_again_once_with_its_category_its_score_and_its_place() -> None:
    expected = Detections.of([[0, 0, 9, 9]] * 2, [0.5, 0.5], [1, 1])
    for boxes, scores, ids, matched in (
        ([[0, 0, 9, 9]] * 2, [0.5, 0.5], [1, 1], 2),
        ([[0, 0, 9, 9]], [0.5], [1], 1),
        ([[0, 0, 9, 9]] * 2, [0.5, 0.5], [1, 2], 1),
        ([[0, 0, 9, 9]] * 2, [0.5, 0.52], [1, 1], 1),
        ([[0, 0, 9, 9], [0, 0, 9, 8]], [0.5, 0.5], [1, 1], 1),
        ([], [], [], 0),
    ):
        found = compare_boxes([(expected, Detections.of(boxes, scores, ids))], least_iou=0.99, score_error=0.01)
        assert (found.matched, found.compared) == (matched, 2)


def test_what_is_expected_of_the_shipped_checkpoint_was_measured() -> None:
    (name, expected), *_ = read_protocol("shapes").expected.items()
    said = json.loads((ROOT / expected["source"]).read_text())
    assert (said["model"], said["verdict"], said["fingerprint"]["model"]) == (name, "reproduced", expected["digest"])
    assert said["ap"] == pytest.approx(expected["ap"], abs=0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_shipped_checkpoint_is_reproduced_and_another_figure_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data_set(str(tmp_path / "data"), images=48, seed=7)
    words = ["reproduce", "shapes", str(SHAPES), "--images-folder", str(tmp_path / "data" / "shards")]
    words += ["--output", str(tmp_path / "run"), "ray.cpus_per_worker=1"]
    assert main([*words, "--annotations", data.annotations, "--images", "2"]) == 0
    out = capsys.readouterr().out
    assert "\nresult      reproduced\n" in out
    assert "of the 200 best of transformers' own forward pass in 2 images" in out
    text = (tmp_path / "run" / FILE).read_text()
    said = json.loads(text)
    assert str(tmp_path) not in text
    assert (said["verdict"], said["model"], said["benchmark"]) == ("reproduced", "models/shapes", "shapes")
    assert said["boxes"]["part"] > 0.99
    assert said["place"]["device"] == "cpu"
    assert said["expected"]["ap"] == pytest.approx(said["ap"], abs=1.0)
    assert said["figures"]["AP"] == pytest.approx(said["ap"] / 100, abs=1e-4)
    truth = json.loads(Path(data.annotations).read_text())
    first = truth["images"].pop()["id"]
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] != first]
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(truth))
    made = reproduce("shapes", str(SHAPES), str(tmp_path / "data" / "shards"), data.annotations,
                     run_uri=str(tmp_path / "run"), overrides=["ray.cpus_per_worker=1"])  # fmt: skip
    assert made.problems == []
    assert made.ap is not None
    (problem,) = replace(made, ap=made.ap - 3).problems
    assert problem.endswith("is not within 1.0 of the expected 71.1")
    assert "of transformers' own forward pass are there" in replace(made, boxes={"part": 0.5}).problems[0]
    assert main([*words, "--annotations", str(fewer)]) == 1
    assert "differs: 47 annotated images, the benchmark has 48" in capsys.readouterr().out
