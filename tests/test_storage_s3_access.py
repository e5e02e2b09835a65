"""Buckets of somebody else: unsigned ones and those whose readers pay, through every place that reads an input."""

from __future__ import annotations

import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeler import storage
from labeler.config import make_config
from labeler.errors import Refused, StorageError
from labeler.labeling.resolve import s3_rules
from labeler.shards import find_shards
from labeler.storage import s3_access
from labeler.storage.failures import Unreadable
from tests.inputs import image_bytes, tar_bytes
from tests.s3_server import Proxy, S3Server
from tests.test_storage_http import column, items_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_rules() -> Iterator[None]:
    yield
    s3_access._by_prefix.clear()


def config_of(source: str, output: str, **options: bool) -> dict[str, object]:
    return {"input": {"uri": source, "s3": options}, "output": output, "vocabulary": ["cat"], "model": {"name": "m"}}


@pytest.fixture
def other(bucket: str, s3_server: S3Server) -> str:
    """A bucket of somebody else, with a tar and an image file."""
    uri = s3_server.create_bucket(f"other-{uuid.uuid4().hex[:12]}")
    storage.put(f"{uri}/in/a.tar", tar_bytes({"a.png": image_bytes(1)}))
    storage.put(f"{uri}/b.png", image_bytes(2))
    return uri


def close_to_strangers(proxy: Proxy, uri: str, option: str) -> None:
    (proxy.public if option == "unsigned" else proxy.paying).add(uri.removeprefix("s3://"))


@pytest.mark.parametrize("option", ["unsigned", "requester_pays"])
def test_an_input_is_read_as_its_config_says_and_the_output_is_signed(
    bucket: str, other: str, proxy: Proxy, tmp_path: Path, option: str
) -> None:
    close_to_strangers(proxy, other, option)
    with pytest.raises(Refused, match="access denied"):
        find_shards(f"{other}/in")
    s3_rules(make_config(config_of(f"{other}/in", f"{bucket}/run", **{option: True}))).apply()
    assert [item.data for item in items_of(f"{other}/in")] == [image_bytes(1)]
    assert [item.data for item in items_of(f"{other}/*.png")] == [image_bytes(2)]
    assert [item.data for item in items_of(column(tmp_path, [f"{other}/b.png"]))] == [image_bytes(2)]
    close_to_strangers(proxy, bucket, "requester_pays" if option == "unsigned" else "unsigned")
    with pytest.raises(Refused, match="access denied"):
        storage.check_put_if_absent(f"{bucket}/run", single_writer=False)  # as the owner: signed, nobody else pays
    proxy.public.discard(bucket.removeprefix("s3://"))
    proxy.paying.discard(bucket.removeprefix("s3://"))
    storage.check_put_if_absent(f"{bucket}/run", single_writer=False)


def test_an_output_in_the_input_s_bucket_is_written_and_read_signed(bucket: str, proxy: Proxy) -> None:
    s3_rules(make_config(config_of(f"{bucket}/in", f"{bucket}/run", unsigned=True))).apply()
    proxy.public.add(bucket.removeprefix("s3://"))
    with pytest.raises(StorageError, match="access denied"):
        storage.head(f"{bucket}/run/run.json")
    assert storage.head(f"{bucket}/in/a.tar") is None


def test_column_addresses_in_any_bucket_are_read_as_the_input(
    bucket: str, other: str, proxy: Proxy, tmp_path: Path
) -> None:
    close_to_strangers(proxy, other, "unsigned")
    source = column(tmp_path, [f"{other}/b.png"])
    s3_rules(make_config(config_of(source, str(tmp_path / "run"), unsigned=True))).apply()
    assert [item.data for item in items_of(source)] == [image_bytes(2)]


def test_an_unsigned_input_needs_no_credentials(
    bucket: str, other: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_to_strangers(proxy, other, "unsigned")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(Refused, match=r"no usable AWS credentials .*input.s3.unsigned=true"):
        find_shards(f"{other}/in")
    s3_rules(make_config(config_of(f"{other}/in", str(tmp_path / "run"), unsigned=True))).apply()
    assert [item.data for item in items_of(f"{other}/in")] == [image_bytes(1)]


def test_the_rules_travel_to_another_process(other: str, proxy: Proxy, tmp_path: Path) -> None:
    close_to_strangers(proxy, other, "unsigned")
    rules = s3_rules(make_config(config_of(f"{other}/in", str(tmp_path / "run"), unsigned=True)))
    (tmp_path / "rules").write_bytes(pickle.dumps(rules))
    program = (
        f"import pickle; from labeler import storage; pickle.load(open({str(tmp_path / 'rules')!r}, 'rb')).apply()\n"
    )
    program += f"print(storage.head('{other}/b.png') is not None)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


def test_a_checkpoint_is_fetched_as_its_own_section_says(
    bucket: str, other: str, proxy: Proxy, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.checkpoints import resolve

    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))
    for file in checkpoint.iterdir():
        storage.put(f"{other}/model/{file.name}", file.read_bytes())
    close_to_strangers(proxy, other, "requester_pays")
    values = config_of(str(tmp_path), str(tmp_path / "run"))
    values["model"] = {"name": f"{other}/model", "s3": {"requester_pays": True}}
    with pytest.raises(Refused, match="access denied"):
        resolve(f"{other}/model")
    s3_rules(make_config(values)).apply()
    assert resolve(f"{other}/model").digest == resolve(checkpoint).digest
    with pytest.raises(Unreadable):
        storage.read_bytes(f"{other}/b.png")  # no rule of the input's


def test_nobody_pays_unsigned() -> None:
    with pytest.raises(Refused, match="requester_pays or unsigned, not both"):
        make_config(config_of("s3://b", "o", unsigned=True, requester_pays=True))
