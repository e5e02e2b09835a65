"""`labeler vocabulary try`: which words work, on synthetic scenes with the shipped checkpoint."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labeler.cli import main
from labeler.config import make_config
from labeler.evaluation.phrases import PhraseJudge
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.training import shapes
from labeler.trial import phrases as trial_of
from labeler.trial.phrases import PhraseTrial, try_phrases
from labeler.truth.ground_truth import read_ground_truth
from labeler.vocabulary import Vocabulary
from tests import closed_sets
from tests.owl_model import owl_checkpoint
from tests.own_detectors import forget_module, write_module, write_weights

SHAPES = Path(__file__).parent.parent / "models" / "shapes"
DRAWN = ("red circle", "green star", "yellow triangle", "blue square", "black cross")
PLANTED = {"red circle": "blue square", "green star": "black cross", "yellow triangle": "purple heart"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of five kinds of shapes, in two shards, with annotations.json."""
    folder = tmp_path_factory.mktemp("scenes")
    combinations = shapes.select(DRAWN)
    shapes.write_data_set(str(folder), images=16, seed=77, images_per_shard=8, combinations=combinations)
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Three categories, each with a phrase for other objects before its own."""
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{name} / {planted}\n" for name, planted in PLANTED.items()))
    phrases = [{"name": name, "phrases": [planted, name]} for name, planted in PLANTED.items()]
    path = tmp_path / "words.json"
    path.write_text(json.dumps(phrases))
    return path


def command(words: Path | str, scenes: Path, *more: str, model: Path = SHAPES) -> list[str]:
    return ["vocabulary", "try", str(words), "--annotations", str(scenes / "annotations.json"), "--images",
            str(scenes / "shards"), f"model.name={model}", "model.device=cpu", *more]  # fmt: skip


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def tried(trial: PhraseTrial) -> dict[str, list[str]]:
    """Name -> its phrases, best first."""
    return {each.category.name: [one.candidate.text for one in each.tried] for each in trial.categories}


def test_planted_phrases_are_ranked_last_and_left_out_of_the_new_vocabulary(
    scenes: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.yaml"
    assert main(command(words, scenes, "--output", str(new))) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, planted in PLANTED.items():
        start = next(row for row, line in enumerate(lines) if f'"{name}"' in line)
        first, second, both = lines[start + 2 : start + 5]
        assert first.startswith(f"  * {name} ")
        assert second.startswith(f"    {planted} ")
        assert both.startswith("    [its phrases together]")
    where = next(line for line in lines if line.startswith("    blue square "))
    assert int(where.split("blue square ")[-1].split("%")[0]) >= 70, "its boxes are on blue squares"
    assert "chosen (*)  3 categories get other phrases, 0 keep theirs" in lines
    before, after = Vocabulary.load(str(words)), Vocabulary.load(str(new))
    assert [category.phrases for category in after.categories] == [(name,) for name in PLANTED]
    assert [(c.id, c.name) for c in after.categories] == [(c.id, c.name) for c in before.categories]

    data = new.read_bytes()
    assert main(command(words, scenes, "--sample", "2", "--output", str(new))) == 0  # its own file is replaced
    printed = capsys.readouterr().out
    assert "replaces an earlier choice of phrases" in printed
    assert "too few to choose by" in printed
    kept = Vocabulary.load(str(new))
    assert kept.categories == before.categories
    assert kept.fingerprint == before.fingerprint
    new.write_bytes(data.replace(b"Written by", b"By"))
    assert "is not a vocabulary by" in refusal(capsys, *command(words, scenes, "--output", str(new)))


@pytest.mark.slow
def test_every_planted_phrase_is_ranked_last_among_all_names(tmp_path: Path) -> None:
    """Half of the 80 names are looked for, each with another's as a second phrase."""
    shapes.write_data_set(str(tmp_path), images=60, seed=78)
    names = [combination.name for combination in shapes.ALL]
    of = {name: names[place + 40] for place, name in enumerate(names[:40])}
    config = make_config({"input": str(tmp_path / "shards"), "output": str(tmp_path / "run"),
                          "vocabulary": [{"name": name, "phrases": [name, planted]} for name, planted in of.items()],
                          "model": {"name": str(SHAPES), "device": "cpu"}})  # fmt: skip
    trial = try_phrases(config, str(tmp_path / "annotations.json"), images=60, min_objects=1)
    enough = {each.category.name: each for each in trial.categories if each.together.objects >= 5}
    assert len(enough) > 10
    assert {name: found[-1] for name, found in tried(trial).items() if name in enough} == {
        name: of[name] for name in enough
    }
    assert all(candidate.text not in of.values() for each in enough.values() for candidate in each.chosen)


def test_a_configuration_brings_its_images_and_proposals_are_tried(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = [trial_of.Candidate(1, "red circle", proposed_by="lvis_v1")]
    monkeypatch.setattr(trial_of, "proposals_for", lambda vocabulary: meant)  # no built-in name is one of the shapes
    config = tmp_path / "config.yaml"
    values = {"input": str(scenes / "shards"), "output": str(tmp_path / "run"), "masks": {"model": "none"},
              "model": {"name": str(SHAPES), "device": "cpu"},
              "vocabulary": [{"name": "red circle", "phrases": ["purple ring"]}, "unheard of"]}  # fmt: skip
    config.write_text(json.dumps(values))
    plain = [
        "vocabulary",
        "try",
        str(config),
        "--annotations",
        str(scenes / "annotations.json"),
        "--sample",
        "8",
        "--min-objects",
        "5",
    ]
    assert main(plain) == 0
    printed = capsys.readouterr().out
    assert "not judged  1 categories are not in the annotations: unheard of" in printed
    assert "  * red circle (lvis_v1)" in printed
    assert "    purple ring " in printed
    assert not (tmp_path / "run").exists()
    assert main([*plain, "--no-proposals"]) == 0
    assert "(lvis_v1)" not in capsys.readouterr().out
    assert "--synonyms" in refusal(capsys, *plain, "--synonyms")


def test_what_cannot_be_tried_is_refused_in_one_line_before_a_model_is_loaded(
    scenes: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--sample 0" in refusal(capsys, *command(words, scenes, "--sample", "0"))
    plain = ["vocabulary", "try", str(words), "--annotations", str(scenes / "annotations.json"), f"model.name={SHAPES}"]
    assert "no images" in refusal(capsys, *plain)
    assert "--sample says how many" in refusal(capsys, *plain, "--images", "20")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refusal(capsys, *plain, "--images", str(tmp_path / "empty"))
    assert "name it .yaml" in refusal(capsys, *command(words, scenes, "--output", "new.txt"))

    truth = json.loads((scenes / "annotations.json").read_text())
    others = {**truth, "images": [{**image, "file_name": f"other-{image['id']}.jpg"} for image in truth["images"]]}
    (tmp_path / "annotations.json").write_text(json.dumps(others))
    message = refusal(
        capsys, *command(words, scenes)[:4], str(tmp_path / "annotations.json"), *command(words, scenes)[5:]
    )
    assert "are for other images" in message
    assert "other-1.jpg" in message

    (tmp_path / "zoo.txt").write_text("zebra\nred circel")
    message = refusal(capsys, *command(tmp_path / "zoo.txt", scenes))
    assert "no category of vocabulary zoo is among the 80" in message

    closed = closed_sets.make_checkpoint(tmp_path / "closed", "rt_detr")
    for vocabulary in (str(words), "from_model"):
        assert "reads no words" in refusal(capsys, *command(vocabulary, scenes, model=closed))
    assert not (tmp_path / "new.txt").exists()


def test_owl_and_a_detector_of_one_s_own_are_tried_phrase_by_phrase(
    scenes: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owl = owl_checkpoint(tmp_path / "owl", "owlv2", words=["red", "circle", "blue", "square", "star", "green"])
    more = ("--sample", "2", "prompts.templates=['{}']", "detect.score_floor=0.3")
    assert main(command(words, scenes, *more, model=owl)) == 0
    assert "6 phrases in 6 phrases in 1 template" in capsys.readouterr().out
    png = io.BytesIO()
    Image.new("RGB", (40, 40), (214, 30, 36)).save(png, "PNG")
    (tmp_path / "crop.png").write_bytes(png.getvalue())
    crops = [{"name": "red circle", "phrases": [{"image": "crop.png"}, "red circle"]}]
    (tmp_path / "crops.json").write_text(json.dumps(crops))
    new = tmp_path / "new.yaml"
    assert main(command(tmp_path / "crops.json", scenes, *more, "--output", str(new), model=owl)) == 0
    assert "  * crop.png " in capsys.readouterr().out, "a crop is tried as words are"
    (category,) = Vocabulary.load(str(new)).categories
    assert (category.phrases, [crop.data for crop in category.crops]) == (("red circle",), [png.getvalue()])
    write_module(tmp_path, "my_words")
    monkeypatch.chdir(tmp_path)
    try:
        found = main(command(words, scenes, "--sample", "2", "model.family=my_words",
                             model=write_weights(tmp_path / "own")))  # fmt: skip
        assert found == 0
    finally:
        forget_module("my_words")
    printed = capsys.readouterr().out
    assert "each phrase has a score of its own" not in printed, "such a detector decides that by itself"


def test_failed_images_count_without_boxes_and_two_images_of_one_name_are_refused(
    scenes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labeled = trial_of._label

    def failing(job: Any, sample: Any) -> Any:
        for number, (name, row) in enumerate(labeled(job, sample)):
            failed = replace(row, status="decode_error", detections=Detections.empty())
            yield name, failed if number == 0 else replace(row, width=7)

    monkeypatch.setattr(trial_of, "_label", failing)
    assert main(command("coco", scenes, "--sample", "3", "vocabulary=[red circle]")) == 0
    printed = capsys.readouterr().out
    assert "failed      decode_error 1: these count as images without boxes" in printed
    assert "sizes       2 images have another size" in printed

    def doubled(job: Any, sample: Any) -> Any:
        row = Row("000000.jpg", "000000", 0, "u", "empty")
        yield from (("a/000000.jpg", row), ("b/000000.jpg", row))

    monkeypatch.setattr(trial_of, "_label", doubled)
    message = refusal(capsys, *command("coco", scenes, "--sample", "3", "vocabulary=[red circle]"))
    assert "could be a/000000.jpg or b/000000.jpg" in message


def choice(*found_by: str, proposed: int = 0, objects: int = 40, least: int = 10) -> tuple[list[int], bool]:
    """The phrases chosen for the category of cats, and whether enough were seen.

    Args:
        found_by: of each phrase, where it finds something: "even" and "odd" images' cats, "all" cats, "dog"s.
        proposed: how many of the last phrases are proposals.
        objects: images, each with a cat and a dog.
    """
    boxes = {"cat": [10, 10, 30, 30], "dog": [60, 10, 20, 20]}
    truth = read_ground_truth(
        {
            "images": [{"id": n, "file_name": f"{n}.jpg", "height": 100, "width": 100} for n in range(objects)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": 2 * n + category, "image_id": n, "category_id": category, "bbox": box, "area": 400}
                for n in range(objects)
                for category, box in enumerate(boxes.values(), 1)
            ],
        }
    )
    images = {"even": lambda n: n % 2 == 0, "odd": lambda n: n % 2, "all": lambda n: True, "dog": lambda n: True}
    found = {}
    for n in range(objects):
        mine = [(number, what) for number, what in enumerate(found_by) if images[what](n)]
        places = [boxes["dog" if what == "dog" else "cat"] for _, what in mine]
        corners = [[x, y, x + width, y + height] for x, y, width, height in places]
        found[n] = Detections.of(corners, [0.9 - 0.01 * number for number, _ in mine], [number for number, _ in mine])
    judge = PhraseJudge(truth, found, phrases=len(found_by), nms_iou=0.7)
    own = len(found_by) - proposed
    candidates = [
        trial_of.Candidate(1, str(number), proposed_by=None if number < own else "lvis_v1")
        for number in range(len(found_by))
    ]
    vocabulary = Vocabulary.load([{"name": "cat", "phrases": [str(number) for number in range(own)]}])
    ((trial,), _) = trial_of._judge(judge, vocabulary, candidates, {1: 0}, least)
    return [int(candidate.text) for candidate in trial.chosen], trial.enough


def test_phrases_are_chosen_where_they_surely_add_something() -> None:
    assert choice("even", "odd") == ([0, 1], True)
    assert choice("dog", "even", "odd") == ([1, 2], True), "a phrase for other objects is excluded"
    assert choice("all", "even") == ([0], True), "what another finds already costs tokens for nothing"
    assert choice("even", "even", proposed=1) == ([0], True), "a proposal that is as good is not taken"
    assert choice("even", "all", proposed=1) == ([1], True), "one that is certainly better is"
    assert choice("even", "odd", "dog", proposed=2) == ([0, 1], True)
    assert choice("dog", "all", objects=9) == ([0, 1], False), "too few objects"
    assert choice("dog", "dog") == ([0, 1], True), "none finds any"
