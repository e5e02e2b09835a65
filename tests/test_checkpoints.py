from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from labeler import checkpoints
from labeler.checkpoints import resolve
from labeler.errors import Refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_checkpoint(folder: Path, *, architecture="MMGroundingDinoForObjectDetection", weights=True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 128, "longest_edge": 224}}))
    if weights:
        save_file({"weight": np.ones((64, 64), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"has no config\.json"):
        resolve(tmp_path)


def test_a_local_folder_is_used_in_place(folder):
    found = resolve(folder)
    assert found.folder == folder
    assert found.revision is None
    assert found.architecture == "MMGroundingDinoForObjectDetection"
    assert found.image_size == (128, 224)
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
    assert resolve(folder).image_size == expected


def test_the_image_processor_is_found_among_the_processors_of_newer_checkpoints(folder):
    (folder / "preprocessor_config.json").unlink()
    inner = {"size": {"shortest_edge": 100, "longest_edge": 200}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert resolve(folder).image_size == (100, 200)


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


def test_another_architecture_is_refused_with_the_supported_ones(folder):
    (folder / "config.json").write_text(json.dumps({"architectures": ["DetrForObjectDetection"]}))
    with pytest.raises(Refused, match=r"is a Detr.*; supported are GroundingDino.* and MMGroundingDino"):
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
    with pytest.raises(Refused, match="no checkpoint folder"):
        resolve(name)


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(Refused, match="revision"):
        resolve(folder, revision="main")


# ---- object storage: fsspec's local files stand in for a bucket, over the same door


@pytest.fixture
def bucket(tmp_path):
    """A folder that is only reached through fsspec, as any object store is."""
    write_checkpoint(tmp_path / "bucket" / "model")
    training_state = tmp_path / "bucket" / "model" / "states" / "optimizer.safetensors"
    training_state.parent.mkdir()
    training_state.write_bytes(b"not wanted")
    return f"local://{tmp_path}/bucket/model"


def test_a_url_is_fetched_once_into_the_cache(bucket, folder):
    first = resolve(bucket)
    assert first.digest == resolve(folder).digest
    assert checkpoints.cache_folder() in first.folder.parents
    assert not (first.folder / "optimizer.safetensors").exists()
    inode = (first.folder / "model.safetensors").stat().st_ino
    again = resolve(bucket)
    assert again.folder == first.folder
    assert (again.folder / "model.safetensors").stat().st_ino == inode


def test_a_changed_checkpoint_is_fetched_again(bucket, tmp_path):
    first = resolve(bucket)
    (tmp_path / "bucket" / "model" / "vocab.txt").write_text("[PAD]\nnew\n")
    second = resolve(bucket)
    assert second.folder != first.folder
    assert second.digest != first.digest


def test_without_weights_none_are_fetched(bucket):
    assert not (resolve(bucket, weights=False).folder / "model.safetensors").exists()


def test_what_a_killed_process_left_is_cleared_away(bucket):
    there = resolve(bucket).folder
    left_over = there.with_name(there.name + "abc.partial")
    there.rename(left_over)
    assert resolve(bucket).folder == there
    assert not left_over.exists()


def test_many_processes_fetch_it_once(bucket):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(_resolved_inode, [bucket] * 3)
    assert len(set(folders)) == 1


def _resolved_inode(uri: str) -> tuple[str, int]:
    folder = resolve(uri).folder
    return str(folder), (folder / "model.safetensors").stat().st_ino


def test_who_finds_another_process_fetching_waits_for_it(bucket):
    there = resolve(bucket).folder
    shutil.rmtree(there)
    with there.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=resolve, args=(bucket,))
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        assert not there.exists()
    waiting.join(timeout=30)
    assert there.exists()


def test_a_url_with_nothing_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="no checkpoint at"):
        resolve(f"local://{tmp_path}/empty")


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(Refused):
        resolve("nosuch://bucket/model")


# ---- the hub: a small server that answers as the hub does


class Hub(BaseHTTPRequestHandler):
    """Repositories: org/good, org/gated, org/limited; everything else is not found."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name == "org/gated":
            return self.answer(401, headers={"X-Error-Code": "GatedRepo"})
        if name == "org/limited":
            return self.answer(500)
        if name != "org/good":
            return self.answer(401, headers={"X-Error-Code": "RepoNotFound"})
        if "nope" in parts:
            return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        if "tree" in parts:
            listed = [{"type": "file", "path": f, "oid": "0" * 40, "size": len(b)} for f, b in self.files.items()]
            return self.answer(200, json.dumps(listed).encode())
        if parts[0] == "api":
            siblings = [{"rfilename": file} for file in self.files]
            return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{parts[-1]}"'}
        return self.answer(200, self.files[parts[-1]], headers)

    do_HEAD = do_GET

    def answer(self, status, body=b"{}", headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("hub"))
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"pytorch_model.bin": b"never fetched"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def resolve_elsewhere(tmp_path, *calls: str, **environment: str) -> list[str]:
    """What each call prints in a process of its own: the hub's address and the offline switch are read at import."""
    body = "\n".join(
        f"try:\n    c = resolve({call})\n    print(c.revision, c.digest, sorted(p.name for p in c.folder.iterdir()))\n"
        f"except Refused as refused:\n    print(refused)"
        for call in calls
    )
    code = f"from labeler.checkpoints import resolve\nfrom labeler.errors import Refused\n{body}"
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", **environment}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_hub_name_is_fetched_without_pickled_weights_and_problems_are_one_line(hub, folder, tmp_path):
    good, gated, unknown, revision, limited = resolve_elsewhere(
        tmp_path,
        "'org/good'",
        "'org/gated'",
        "'org/unknown'",
        "'org/good', revision='nope'",
        "'org/limited'",
        HF_ENDPOINT=hub,
    )
    files = ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"]
    assert good == f"{COMMIT} {resolve(folder).digest} {files}"
    assert "accept them" in gated
    assert "does not exist" in unknown
    assert "no such revision" in revision
    assert limited.startswith("checkpoint org/limited ")


def test_offline_the_cache_serves_and_a_missing_name_is_refused(hub, tmp_path):
    (fetched,) = resolve_elsewhere(tmp_path, "'org/good'", HF_ENDPOINT=hub)
    cached, missing = resolve_elsewhere(tmp_path, "'org/good'", "'org/other'", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert cached == fetched
    assert "cannot be reached" in missing


def test_without_a_network_a_hub_name_is_refused(tmp_path):
    (message,) = resolve_elsewhere(tmp_path, "'org/good'", HF_ENDPOINT="http://127.0.0.1:9")
    assert message.startswith("checkpoint org/good ")
    assert "cannot be reached" in message
