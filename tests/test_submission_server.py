"""The job server: which one is meant, and one line where it is none, or runs another Ray."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
import yaml

from labeler.cli import main
from labeler.errors import Refused
from labeler.submission.server import JobServer, admitted_ray, choose_address
from tests.ray_heads import as_others, free_port, head_node


@contextmanager
def answering(body: str, status: int = 200) -> Iterator[str]:
    """A web server that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    values = {"input": "s3://b/in", "output": str(tmp_path / "out"), "vocabulary": ["cat"], "model": {"name": "o/m"}}
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_option_comes_before_the_environment() -> None:
    both = {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "http://b:2"}
    assert choose_address("https://c/ray/", both) == ("https://c/ray", "--address")
    assert choose_address(None, both) == ("http://a:1", "RAY_API_SERVER_ADDRESS")
    assert choose_address(None, {"RAY_ADDRESS": "http://b:2"}) == ("http://b:2", "RAY_ADDRESS")
    assert choose_address("head-0.ray:8265", {}) == ("http://head-0.ray:8265", "--address")
    assert choose_address("[::1]:8265", {}) == ("http://[::1]:8265", "--address")


@pytest.mark.parametrize("address", ["ray://head:10001", "auto", "head", "head:", "ftp://head"])
def test_what_is_no_job_server_by_its_address_is_refused(address: str) -> None:
    with pytest.raises(Refused, match=r"--address: .* is not the address of a job server; .*http://HEAD:8265"):
        choose_address(address, {})


def test_no_address_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", str(config)]) == 2
    assert "--address is missing" in capsys.readouterr().err


def test_an_unreachable_address_is_one_line_though_the_environment_names_another(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with answering(json.dumps({"ray_version": ray.__version__})) as up:
        monkeypatch.setenv("RAY_ADDRESS", up)
        assert main(["submit", str(config), "--address", closed, "--working-dir", str(config.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"labeler: the job server at {closed} cannot be reached: Connection refused; check --address, and that the "
        "cluster's dashboard is up and its port open to this machine"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ("<html>", 200, "is not a Ray job server: its answer is not JSON"),
        ("[]", 200, "is not a Ray job server: its answer has no ray_version"),
        ("{}", 200, "is not a Ray job server: its answer has no ray_version"),
        ("no", 404, "is not a Ray job server: it answers 404"),
        ("no", 401, "wants a token"),
        ('{"ray_version": "2.9.0"}', 200, "runs Ray 2.9.0, and labeler needs ray"),
        ('{"ray_version": "what"}', 200, "is not a Ray job server"),
    ],
)
def test_what_is_no_job_server_by_its_answer_is_one_line(body: str, status: int, expected: str) -> None:
    with answering(body, status) as address, pytest.raises(Refused) as refused:
        JobServer(address, "--address")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_versions_of_ray_are_those_of_the_package() -> None:
    assert admitted_ray().specifier.contains(ray.__version__)
    assert not admitted_ray().specifier.contains("2.59.0")


@pytest.mark.slow  # half a minute: a head node whose processes say that they are another Ray
def test_another_ray_on_the_cluster_is_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with head_node(as_others(tmp_path / "others", ray="2.58.1", python=platform.python_version())) as address:
        assert main(["submit", str(config), "--address", address, "--working-dir", str(config.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the cluster at {address} runs Ray 2.58.1, and labeler needs ray" in line
    assert not (tmp_path / "out").exists()
