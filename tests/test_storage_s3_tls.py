"""labeler.storage on S3-compatible stores over TLS that do not know the aws-chunked coding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.storage import retries
from tests.s3_server import Proxy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


@pytest.mark.parametrize("framing", [None, "kept", "refused"])
def test_what_is_written_is_what_is_stored(bucket: str, tls_proxy: Proxy, tmp_path: Path, framing: str | None) -> None:
    tls_proxy.framing = framing
    storage.check_put_if_absent(bucket + "/run", single_writer=False)
    assert storage.put_if_absent(bucket + "/a", b"0123456789")
    storage.put(bucket + "/b", b"0123456789")
    assert [storage.read_bytes(f"{bucket}/{key}") for key in "ab"] == [b"0123456789"] * 2
    data = os.urandom(1 << 20) * 65
    (tmp_path / "big").write_bytes(data)
    storage.put_file(bucket + "/big", tmp_path / "big")
    assert storage.read_bytes(bucket + "/big", start=(64 << 20) - 5, length=10) == data[(64 << 20) - 5 :][:10]
    assert tls_proxy.framed == 0


def test_a_choice_of_the_user_stays_and_a_store_that_spoils_what_is_written_is_refused(
    bucket: str, tls_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    storage.put(bucket + "/x", b"0123456789")
    assert tls_proxy.framed == 1
    tls_proxy.framing = "kept"
    with pytest.raises(Refused, match=r"gave back b'5.*probe.* for b'probe'.*AWS_REQUEST_CHECKSUM_CALCULATION"):
        storage.check_put_if_absent(bucket + "/run", single_writer=False)
    assert [storage.basename(info.uri) for info in storage.list_objects(bucket)] == ["x"], "the probe is gone"
    tls_proxy.framing = "refused"
    with pytest.raises(Refused, match=r"storage lacks what this request needs: .*NotImplemented.*HTTP 501") as caught:
        storage.check_put_if_absent(bucket + "/run", single_writer=False)
    assert "put-if-absent" not in str(caught.value)


def test_a_profile_s_choice_stays(
    bucket: str, tls_proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = when_supported\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    storage.put(bucket + "/x", b"0123456789")
    assert tls_proxy.framed == 1


def test_a_certificate_that_is_not_trusted_is_named(
    bucket: str, tls_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(StorageError, match="certificate is not trusted; set AWS_CA_BUNDLE"):
        storage.put(bucket + "/x", b"")
