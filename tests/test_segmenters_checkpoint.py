from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import Refused
from labeler.segmenters import Sam, resolve_segmenter
from labeler.segmenters.preprocess import MaskPreprocessing
from tests.segmenter_parts import FAMILIES, tiny_sam


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sam("sam"), tmp_path / "copy"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has no config\.json"):
        resolve_segmenter(tmp_path)


@pytest.mark.parametrize("family", [*FAMILIES, "sam2_video"])
def test_the_family_is_read_from_the_config(family: str) -> None:
    found = resolve_segmenter(tiny_sam(family))
    assert found.architecture == {"sam": "SamModel", "sam_hq": "SamHQModel"}.get(family, "Sam2Model")
    assert found.side == 128
    assert len(found.digest) == 32
    assert resolve_segmenter(tiny_sam(family), weights=False).digest == ""


def test_the_digest_is_of_the_weights_and_the_settings(copy: Path) -> None:
    before = resolve_segmenter(copy).digest
    assert resolve_segmenter(tiny_sam("sam")).digest == before
    assert resolve_segmenter(tiny_sam("sam", seed=1)).digest != before
    change(copy / "preprocessor_config.json", image_std=[1, 1, 1])
    assert resolve_segmenter(copy).digest != before


def test_a_detector_is_no_segmenter(checkpoint: Path) -> None:
    with pytest.raises(Refused, match=r"masks\.model: .* is of type mm-grounding-dino; supported are sam, "):
        resolve_segmenter(checkpoint)


def test_missing_weights_are_refused_in_one_line(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    resolve_segmenter(copy, weights=False)
    with pytest.raises(Refused, match=r"has no model\.safetensors"):
        resolve_segmenter(copy)


def test_a_url_is_fetched_into_the_cache_without_other_formats(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))
    (copy / "sam2.1_hiera_tiny.pt").write_bytes(b"pickled")  # the published folders have the original weights, too
    there = resolve_segmenter(f"local://{copy}")
    assert there.folder.is_relative_to(tmp_path / "cache")
    assert not (there.folder / "sam2.1_hiera_tiny.pt").exists()
    assert there.digest == resolve_segmenter(copy).digest
    assert Sam(there.folder, device="cpu", threads=1).checkpoint.digest == there.digest


def test_a_revision_is_for_hub_names(copy: Path) -> None:
    with pytest.raises(Refused, match=r"masks\.revision is for Hub IDs only"):
        resolve_segmenter(copy, revision="main")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_lack_a_tensor_are_refused(family: str, tmp_path: Path) -> None:
    """Also one that transformers counts as a buffer: SAM 2's positions would be random."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_sam(family), tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    name = "shared_image_embedding.positional_embedding" if family == "sam2" else "mask_decoder.iou_token.weight"
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=rf"lacks 1 of the model's weights \({name}"):
        Sam(folder, device="cpu")


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("sam", {"size": {"longest_edge": 256}}),
        ("sam", {"pad_size": {"height": 256, "width": 256}}),
        ("sam", {"do_resize": False}),
        ("sam_hq", {"size": {"height": 128, "width": 128}}),
        ("sam2", {"size": {"height": 128, "width": 256}}),
    ],
)
def test_an_image_processor_that_does_not_fit_the_model_is_refused(
    family: str, values: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sam(family), tmp_path / "copy"))
    change(folder / "preprocessor_config.json", **values)
    with pytest.raises(Refused, match=r"masks\.model: checkpoint .*copy"):
        MaskPreprocessing.of(resolve_segmenter(folder, weights=False))


def test_without_an_image_processor_the_model_s_own_size_holds(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    settings = MaskPreprocessing.of(resolve_segmenter(copy, weights=False))
    assert (settings.side, settings.resample, settings.scale) == (128, 2, 1 / 255)
    assert settings.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"max_masks": -1}, {"boxes_per_batch": 0}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="masks: threshold"):
        Sam(tiny_sam("sam"), device="cpu", **options)
