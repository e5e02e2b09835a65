from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from labeler.checkpoints import resolve
from labeler.errors import Refused
from tests.checkpoint_parts import write_checkpoint


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"has no config\.json"):
        resolve(tmp_path)


def test_a_local_folder_is_used_in_place(folder):
    found = resolve(folder)
    assert found.folder == folder
    assert found.revision is None
    assert found.architecture == "MMGroundingDinoForObjectDetection"
    assert found.rule.size == (128, 224)
    assert len(found.digest) == 32


def test_a_file_url_is_a_local_folder(folder):
    assert resolve(f"file://{folder}").folder == folder


def test_the_model_type_names_the_architecture_where_the_config_does_not(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "grounding-dino"}))
    assert resolve(folder).architecture == "GroundingDinoForObjectDetection"


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "preprocessor_config.json", "model.safetensors"])
def test_the_digest_changes_with_every_file_that_determines_outputs(folder, name):
    before = resolve(folder).digest
    if name == "model.safetensors":
        save_file({"weight": np.zeros((64, 64), np.float32)}, folder / name)
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert resolve(folder).digest != before


def test_the_digest_of_a_checkpoint_with_berts_files_stays_what_it_was(folder):
    """As runs of earlier versions have it in their fingerprints."""
    assert resolve(folder).digest == "6398e1987f532e217b4d69b392f548e2"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "spiece.model"])
def test_the_digest_changes_with_every_file_of_a_tokenizer(folder, name):
    without = resolve(folder).digest
    (folder / name).write_bytes(b"a b\n")
    before = resolve(folder).digest
    (folder / name).write_bytes(b"b a\n")
    assert len({without, before, resolve(folder).digest}) == 3


def test_the_digest_is_of_the_contents_not_of_the_place(folder, tmp_path):
    other = write_checkpoint(tmp_path / "elsewhere" / "copy")
    (other / "README.md").write_text("not part of it")
    assert resolve(other).digest == resolve(folder).digest


@pytest.mark.parametrize(
    ("size", "expected"),
    [({"shortest_edge": 640, "longest_edge": 640}, (640, 640)), (800, (800, 1333)), (None, (800, 1333))],
)
def test_the_image_size_is_read_in_its_old_and_new_forms(folder, size, expected):
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    assert resolve(folder).rule.size == expected


def test_the_image_processor_is_found_among_the_processors_of_newer_checkpoints(folder):
    (folder / "preprocessor_config.json").unlink()
    inner = {"size": {"shortest_edge": 100, "longest_edge": 200}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert resolve(folder).rule.size == (100, 200)


def test_a_size_that_is_not_an_edge_is_refused(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 640, "width": 640}}))
    with pytest.raises(Refused, match="shortest_edge"):
        resolve(folder)


def test_sharded_weights_are_all_part_of_the_digest(folder):
    before = resolve(folder).digest
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve(folder).digest != before
    (folder / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(Refused, match="lacks model-00001-of-00001"):
        resolve(folder)


def test_another_architecture_is_refused_with_the_families(folder):
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(
        Refused, match=r"is a BertModel, .*; known are grounding-dino \(grounding-dino, mm-grounding-dino\); "
    ):
        resolve(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(Refused, match=r"no model\.safetensors; .*\.bin.* never read"):
        resolve(folder)


def test_a_checkpoint_without_tokenizer_is_refused(folder):
    (folder / "vocab.txt").unlink()
    with pytest.raises(Refused, match="no tokenizer"):
        resolve(folder)


@pytest.mark.parametrize("keep", [0, 40, 2000, -5])
def test_cut_weights_are_refused(folder, keep):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(Refused, match="corrupt or cut short"):
        resolve(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff"])
def test_an_unreadable_config_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match=r"cannot read .*config\.json"):
        resolve(folder)


def test_without_weights_only_the_rest_is_checked(tmp_path):
    folder = write_checkpoint(tmp_path / "light", weights=False)
    assert resolve(folder, weights=False).digest == ""
    with pytest.raises(Refused, match="safetensors"):
        resolve(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "~/nowhere/at/all", "a b", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name):
    with pytest.raises(Refused, match="does not exist on this machine"):
        resolve(name)


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(Refused, match="revision"):
        resolve(folder, revision="main")
