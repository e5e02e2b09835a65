"""Checkpoints on the hub: a small server answers as the hub does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labeler.checkpoints import resolve
from tests.checkpoint_parts import write_checkpoint
from tests.waiting import PATIENCE_S

TOKENIZER_FILES = ("merges.txt", "spiece.model", "vocab.json")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    for name in TOKENIZER_FILES:
        (folder / name).write_text(name)
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
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_hub_name_is_fetched_without_pickled_weights_and_problems_are_one_line(hub, tmp_path):
    good, gated, unknown, revision, limited = resolve_elsewhere(
        tmp_path,
        "'org/good'",
        "'org/gated'",
        "'org/unknown'",
        "'org/good', revision='nope'",
        "'org/limited'",
        HF_ENDPOINT=hub,
    )
    files = sorted(["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt", *TOKENIZER_FILES])
    folder = write_checkpoint(tmp_path / "model")
    for name in TOKENIZER_FILES:
        (folder / name).write_text(name)
    digest = resolve(folder).digest
    assert good == f"{COMMIT} {digest} {files}"
    assert "accept its terms" in gated
    assert "does not exist on the Hugging Face Hub" in unknown
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
    assert message.endswith(f"there is none at {Path.cwd() / 'org/good'}, set model.name to where it is")
