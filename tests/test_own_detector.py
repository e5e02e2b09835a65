"""A detector of the user's own, from the module that `model.family` names to rows, exports and refusals."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from labeler.checkpoints.contents import digest_of_folder
from labeler.cli import main
from labeler.config import load_config
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.labeling.resolve import resolve_job
from labeler.pipeline.capacity import CapacityWait
from labeler.pipeline.derive import retry
from labeler.pipeline.label import label
from labeler.pipeline.preflight import preflight_module
from labeler.prompts import UserModule, plan_from_json
from labeler.runs import Run, open_run, read_snapshot
from tests.own_detectors import PLAIN, forget_module, write_module, write_own_config, write_weights

QUIET = Console(file=io.StringIO())


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`PLAIN` as a module of its own name, importable in this process alone."""
    name = f"own_{abs(hash(tmp_path))}.plain"
    write_module(tmp_path / "code", name)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    yield name
    forget_module(name.partition(".")[0])


def run_in(folder: Path) -> Run:
    run = open_run(str(folder))
    assert run is not None
    return run


def rows_of(folder: Path) -> dict[str, dict[str, object]]:
    return {row["image_key"]: row for table in read_snapshot(run_in(folder)).tables() for row in table.to_pylist()}


@pytest.mark.usefixtures("local_ray")
def test_its_boxes_become_rows_and_all_that_reads_the_run_needs_no_module(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_own_config(tmp_path, module)
    outcome = label(load_config(config, ["model.options.part=0.25"]), console=QUIET)
    assert outcome.report.statuses == {"labeled": 3, "detect_error": 1}
    rows = rows_of(tmp_path / "run")
    for number, width in ((0, 40), (1, 64), (3, 40)):
        (found,) = rows[f"{number}.png"]["detections"]  # type: ignore[misc]
        mean = np.asarray(Image.open(tmp_path / "in" / f"{number}.png").convert("RGB")).mean()
        assert found["score"] == pytest.approx(0.25 + 0.5 * mean / 255)
        assert [found[side] for side in ("x_min", "y_min", "x_max", "y_max")] == [0, 0, width / 4, 30]  # clipped
        assert found["category_id"] == 2
    assert rows["2.png"]["error"] == "RuntimeError: no image of this width"
    fields = run_in(tmp_path / "run").manifest.fingerprint_fields
    assert (fields["family"], fields["family_version"], fields["model.options"]) == (module, 3, {"part": 0.25})
    assert fields["family_source"] == digest_of(PLAIN.encode())
    (tmp_path / "code" / f"{module.replace('.', '/')}.py").unlink()
    forget_module(module.partition(".")[0])
    target = tmp_path / "coco.json"
    assert main(["status", str(tmp_path / "run"), "--verify"]) == 0
    assert main(["export", str(tmp_path / "run"), "--to", "coco", "--threshold", "0.1", "--output", str(target)]) == 0
    assert len(json.loads(target.read_text())["annotations"]) == 3
    assert main(["evaluate", str(tmp_path / "run"), "--annotations", str(target), "--partial"]) == 0
    assert "AP" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_goes_on_with_the_same_module_only_and_failed_images_are_retried(module: str, tmp_path: Path) -> None:
    config = write_own_config(tmp_path, module)
    label(load_config(config), console=QUIET)
    assert label(load_config(config), console=QUIET).report.images == 4  # complete already
    outcome = retry(run_in(tmp_path / "run"), ["detect_error"], str(tmp_path / "again"), console=QUIET)
    assert outcome is not None
    assert outcome.report.statuses == {"labeled": 3, "detect_error": 1}
    write_module(tmp_path / "code", module, PLAIN.replace("0.5 * float", "0.4 * float"))
    forget_module(module)
    with pytest.raises(Refused, match="another fingerprint") as refused:
        label(load_config(config), console=QUIET)
    assert [line.partition(":")[0] for line in refused.value.problems] == ["family_source"]
    write_module(tmp_path / "code", module)
    forget_module(module)
    write_weights(tmp_path / "weights", 0.5)
    with pytest.raises(Refused, match="another fingerprint") as refused:
        label(load_config(config, ["model.options.part=1"]), console=QUIET)
    assert [line.partition(":")[0] for line in refused.value.problems] == ["model", "model.options"]


def test_a_dry_run_and_a_preview_take_it_without_ray(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_own_config(tmp_path, module))
    assert main(["label", config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"2 categories in 2 phrases, all given to {module}\n" in out
    assert f"({module}.Detector, digest " in out
    assert "timed    3 images" in out  # the failed one is not timed
    assert "failed   of 4 sampled images detect_error 1" in out
    assert main(["preview", config, "--png", str(tmp_path / "p.png")]) == 0
    assert "4 images (detect_error 1, labeled 3), 3 boxes drawn" in capsys.readouterr().out
    assert main(["label", config, "--profile"]) == 2
    assert "--profile does not know the parts of" in capsys.readouterr().err


NOT_THERE = "there is no such module on node"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, NOT_THERE),
        ("class Detector:\n    detect = None\n", "it has no VERSION; it exposes VERSION (an int) and class Detector"),
        ("", "it has no VERSION and no Detector"),
        ("VERSION = 1\n", "it has no Detector"),
        (PLAIN.replace("= 3", "= '3'"), "its VERSION is '3'"),
        (PLAIN.replace("def detect", "def find"), "its Detector is not a class with `detect`"),
        (PLAIN.replace('("part",)', '"part"'), "its OPTIONS are not names: 'part'"),
        ("import nothing_of_this_name\n", "cannot be imported on node "),
        ("raise ValueError('no permission\\nand more')\n", "ValueError: no permission\n"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3\n"),
        ("family = 3\n", "its family is not one of labeler's"),
    ],
)
def test_a_module_that_is_no_detector_is_refused_in_a_line_before_anything_starts(
    text: str | None, message: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module if text is not None else f"{module}_that_is_not_there"
    if text is not None:
        write_module(tmp_path / "code", name, text)
    config = str(write_own_config(tmp_path, name))
    assert main(["label", config]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith(f"labeler: model.family {name}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.family=grounding-dino", "'grounding-dino' is not one; for labeler's own families leave it out"),
        ("model.options.parts=1", "model.options.parts: checkpoint "),
        ("detect.score=max", "detect.score: checkpoint "),
        ("prompts.max_categories=3", "prompts.max_categories: checkpoint "),
        ("detect.assignment=flattened", "detect.assignment: checkpoint "),
        ("detect.resize=torch", "detect.resize: checkpoint "),
        ("detect.jpeg_draft=true", "detect.jpeg_draft: checkpoint "),
        ("detect.pairs_per_batch=3", "detect.pairs_per_batch: checkpoint "),
        ("model.dtype=float16", "model.dtype: checkpoint "),
        ("detect.image_size={shortest_edge: 64, longest_edge: 96}", "image_size cannot be chosen"),
        ("model.name=/no/such/folder", "checkpoint folder /no/such/folder does not exist"),
    ],
)
def test_what_it_does_not_have_is_refused_by_name(override: str, message: str, module: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        resolve_job(load_config(write_own_config(tmp_path, module), [override]))
    assert message in str(refused.value)


@pytest.mark.parametrize("value", ["2024-01-01", ".nan", "[1, {b: .inf}]"])
def test_options_that_cannot_be_stored_are_refused_by_key(value: str, module: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"model\.options\.part.* cannot be stored as JSON"):
        load_config(write_own_config(tmp_path, module), [f"model.options={{part: {value}}}"])


@pytest.mark.parametrize("value", ["https://user:secret@host/x", "{deep: ['https://host/x?key=secret']}"])
def test_options_with_a_secret_are_refused_because_a_run_stores_them(value: str, module: str, tmp_path: Path) -> None:
    config = load_config(write_own_config(tmp_path, module), [f"model.options={{part: {value}}}"])
    with pytest.raises(Refused, match=r"model\.options\.part holds an address with a password or a query") as refused:
        resolve_job(config)
    assert "secret" not in str(refused.value)


def test_an_output_inside_the_model_s_folder_is_refused(module: str, tmp_path: Path) -> None:
    config = write_own_config(tmp_path, module)
    folder = load_config(config).model.name
    with pytest.raises(Refused, match="is inside the model's folder"):
        resolve_job(load_config(config, [f"output={folder}/run"]))


def test_the_whole_folder_of_a_package_is_in_the_digest(module: str, tmp_path: Path) -> None:
    beside = write_module(tmp_path / "code", f"{module.partition('.')[0]}.parts.inner", "A = 1\n")
    first = UserModule.find(module).digest
    forget_module(module.partition(".")[0])
    beside.write_text("A = 2\n")
    assert UserModule.find(module).digest != first


def test_the_digest_of_a_folder_follows_links_and_leaves_out_what_python_compiles(tmp_path: Path) -> None:
    folder, far = write_weights(tmp_path / "model"), write_weights(tmp_path / "far")
    (folder / "linked").symlink_to(far)
    (far / "back").symlink_to(folder)  # a circle
    first = digest_of_folder(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "det.pyc").write_bytes(b"compiled")
    assert digest_of_folder(folder) == first
    write_weights(far, 0.75)
    assert digest_of_folder(folder) != first


def test_options_of_a_module_are_refused_for_others(checkpoint: Path, tmp_path: Path) -> None:
    config = write_own_config(tmp_path, "unused", model={"name": str(checkpoint), "options": {"part": 1}})
    with pytest.raises(Refused, match=r"model.options.part: .* of the family grounding-dino, which has no such option"):
        resolve_job(load_config(config))


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_has_it_not_or_another_one_is_told_how_to_ship_it(module: str, tmp_path: Path) -> None:
    patience, package = CapacityWait(120, Console(quiet=True)), module.partition(".")[0]
    preflight_module(UserModule.find(module), patience)
    changed, gone = f"{package}.changed", f"{package}.gone"
    files = [write_module(tmp_path / "code", name) for name in (changed, gone)]
    found = [UserModule.find(name) for name in (changed, gone)]
    files[0].write_text(PLAIN.replace("VERSION = 3", "VERSION = 44"))
    with pytest.raises(Refused, match=r"is another file \(digest .*\) than where the job was started .*py_modules"):
        preflight_module(found[0], patience)
    files[1].unlink()
    with pytest.raises(Refused, match=r"there is no such module on node .*ray job submit --working-dir") as refused:
        preflight_module(found[1], patience)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("local_ray")
def test_a_job_asks_a_worker_before_it_writes_anything(module: str, tmp_path: Path) -> None:
    config = write_own_config(tmp_path, module)
    text = f"import os\nif os.getpid() != {os.getpid()}:\n    raise RuntimeError('not on this node')\n"
    write_module(tmp_path / "code", module, text + PLAIN)
    with pytest.raises(Refused, match=r"cannot be imported on node .*: RuntimeError: not on this node$"):
        label(load_config(config), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_file_that_changes_under_a_process_is_noticed(module: str, tmp_path: Path) -> None:
    found = UserModule.find(module)
    write_module(tmp_path / "code", module, PLAIN + "# more\n")
    for ask in (found.family, lambda: UserModule.find(module)):
        with pytest.raises(Refused, match="was changed after this process imported it; start the command again"):
            ask()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_module_with_a_family_is_used_as_one_and_is_known_to_no_other_job(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.test_families import LABELS, of_transformers, toy_folder

    text = (Path(__file__).parent / "toy_family.py").read_text()
    text = text.replace("register(Toy())", "family = Toy()").replace('"toy", 1,', '"my-toy", 5,')
    write_module(tmp_path / "code", module, text.replace("tests.toy_family:", f"{module}:"))
    checkpoint = toy_folder(tmp_path / "toy")
    config = write_own_config(
        tmp_path, module, model={"name": str(checkpoint), "family": module}, vocabulary=LABELS, detect={"nms_iou": 1}
    )
    label(load_config(config), console=QUIET)
    run, rows = run_in(tmp_path / "run"), rows_of(tmp_path / "run")
    for name, row in rows.items():
        expected = of_transformers(checkpoint, (tmp_path / "in" / name).read_bytes())
        assert [d["category_id"] for d in row["detections"]] == [category for _, category, _ in expected]  # type: ignore[attr-defined]
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["family_version"], fields["image_size"]) == (module, 5, [64, 96])
    assert run.prompts().to_json()["family"] == "my-toy"
    with pytest.raises(Refused, match="is of the detector family 'my-toy'; known here are"):
        plan_from_json(run.prompts().to_json())
    target = tmp_path / "coco.json"
    assert main(["export", str(run.uri), "--to", "coco", "--threshold", "0.05", "--output", str(target)]) == 0
    assert main(["evaluate", str(run.uri), "--annotations", str(target)]) == 0
    assert ", 1 pass\n" in capsys.readouterr().out
