"""One bad web address in a column is one row; a network or a host that is down for all of them is none."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3

from labeler import storage
from labeler.shards import find_shards, read_units
from labeler.storage import StorageError, Unreadable, http_evidence, http_store, retries
from labeler.storage.http_evidence import HostEvidence, SilentHosts
from tests.http_server import Web, serving
from tests.inputs import image_bytes
from tests.test_storage_http import column, items_of


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that are read in each pause between two tries."""
    addresses: list[str] = []
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=3, first_s=0.0, longest_s=0.0))
    monkeypatch.setattr(retries.time, "sleep", lambda s: [storage.read_bytes(address) for address in addresses])
    return addresses


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def reason_of(uri: str) -> str | None:
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(uri)
    return caught.value.reason if isinstance(caught.value, Unreadable) else None


def test_a_host_that_refuses_while_another_answers_is_one_bad_address(web: Web, meanwhile: list[str]) -> None:
    dead = closed_port()
    assert reason_of(f"{dead}/a.jpg") is None, "nothing says that the network is well"
    meanwhile.append(web.put("/good.jpg", b"x"))
    assert reason_of(f"{dead}/a.jpg") == "unreachable address"


@pytest.mark.parametrize("status", [500, 502, 504, 520])
def test_an_address_that_always_fails_while_its_host_answers_others_is_a_bad_address(
    web: Web, meanwhile: list[str], status: int
) -> None:
    uri = web.put("/bad.jpg", b"x")
    web.answer("/bad.jpg", status, times=99)
    assert reason_of(uri) is None
    meanwhile.append(web.put("/good.jpg", b"x"))
    assert reason_of(uri) == "unreachable address"


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_host_that_is_busy_is_not_a_bad_address_unless_only_others_answer(
    web: Web, meanwhile: list[str], status: int
) -> None:
    uri = web.put("/busy.jpg", b"x")
    web.answer("/busy.jpg", status, times=99)
    meanwhile.append(web.put("/good.jpg", b"x"))
    assert reason_of(uri) is None, "it answers others: it is busy"
    later = web.put("/later.jpg", b"x")
    web.answer("/later.jpg", status, times=99)
    with serving() as other:
        meanwhile[:] = [other.put("/good.jpg", b"x")]
        assert reason_of(later) == "unreachable address"


@pytest.mark.usefixtures("bucket")  # credentials
def test_one_bad_address_in_a_column_is_one_row(web: Web, meanwhile: list[str], tmp_path: Path) -> None:
    good = [web.put(f"/{i}.png", image_bytes(i)) for i in range(3)]
    meanwhile.append(good[0])
    bad = ["s3://Not_A_Bucket/x.png", "s3:///x.png", "http://[::1/x.png", "http://a b/x.png", f"{closed_port()}/x.png"]
    (shard,) = find_shards(column(tmp_path, [*good, *bad, "x" * 3000 + ".png", "a\0b.png"]))
    (unit, _) = read_units(shard)
    assert [item.error for item in unit.items[:3]] == [None] * 3  # type: ignore[union-attr]
    assert all(item.error for item in unit.items[3:])  # type: ignore[union-attr]


def test_a_bucket_that_does_not_exist_is_one_row(bucket: str, tmp_path: Path) -> None:
    storage.put(f"{bucket}/a.png", image_bytes(1))
    (shard,) = find_shards(column(tmp_path, [f"{bucket}/a.png", "s3://no-such-bucket-of-anybody/a.png"]))
    (unit, _) = read_units(shard)
    assert [item.error for item in unit.items] == [None, "missing bucket"]  # type: ignore[union-attr]


# ---- hosts to which packets are dropped


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A port to which connections time out: nobody takes those that fill its queue. All times are a fiftieth."""
    monkeypatch.setattr(retries, "POLICY", retries.Policy(first_s=0.005, longest_s=0.4))
    monkeypatch.setattr(http_store, "_TIMEOUT", urllib3.Timeout(connect=0.2, read=60))
    monkeypatch.setattr(http_store, "_evidence", HostEvidence())
    monkeypatch.setattr(http_store, "_silent", SilentHosts())
    for name in ("_RECENT_S", "BELIEVED_AFTER_S"):
        monkeypatch.setattr(http_evidence, name, getattr(http_evidence, name) / 50)
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(hole.getsockname())
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"
        for each in waiting:
            each.close()


def errors_of(tmp_path: Path, addresses: list[str]) -> list[str | None]:
    return [item.error for item in items_of(column(tmp_path, addresses))]


def test_a_silent_host_is_a_row_although_all_others_answered_before_its_first_timeout(
    web: Web, black_hole: str, tmp_path: Path
) -> None:
    good = [web.put(f"/{i}.png", image_bytes(i)) for i in range(4)]
    assert errors_of(tmp_path, [*good, f"{black_hole}/a.png"]) == [None] * 4 + ["unreachable address"]


def test_the_next_address_of_a_silent_host_is_not_waited_for(
    web: Web, black_hole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = web.put("/a.png", image_bytes(1))
    assert errors_of(tmp_path, [good, f"{black_hole}/a.png"]) == [None, "unreachable address"]
    monkeypatch.setattr(http_store, "_TIMEOUT", urllib3.Timeout(connect=60, read=60))
    began = time.monotonic()
    more = [f"{black_hole}/{i}.png" for i in range(100)]
    assert errors_of(tmp_path, [good, *more]) == [None] + ["unreachable address"] * 100
    assert time.monotonic() - began < 30, "nothing was connected to"


def test_a_network_that_is_down_makes_no_silent_host_of_any(black_hole: str) -> None:
    with serving() as other:
        storage.read_bytes(other.put("/a.png", b"x"))
    time.sleep(http_evidence._RECENT_S)
    for _ in range(2):
        assert reason_of(f"{black_hole}/a.png") is None


def test_a_silent_host_is_asked_again_after_a_while_and_forgotten_once_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts, now = SilentHosts(), time.monotonic()
    assert not hosts.timed_out("a:80", now - 10)
    assert not hosts.is_dead("a:80")
    assert hosts.timed_out("b:80", now - 100)
    assert hosts.is_dead("b:80")
    monkeypatch.setattr(http_evidence, "ASKED_AGAIN_S", 0.0)
    assert not hosts.is_dead("b:80"), "one try"
    assert hosts.timed_out("b:80", now), "which is enough to know that it is still so"
    monkeypatch.setattr(http_evidence, "ASKED_AGAIN_S", 300.0)
    assert hosts.is_dead("b:80")
    hosts.answered("b:80")
    assert not hosts.is_dead("b:80")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.storage.http_evidence._MOST", 10)
    evidence, hosts = HostEvidence(), SilentHosts()
    for i in range(100):
        hosts.timed_out(f"h{i}", 0.0)
        evidence.answered(f"h{i}", "u")
        evidence.failed(f"u{i}")
    assert (len(evidence._answered), len(evidence._failing), len(hosts._silent)) == (10, 10, 10)
