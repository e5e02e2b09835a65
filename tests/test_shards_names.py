"""Names of image files, and unique names of shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from labeler.shards import Shard, find_shards
from labeler.shards.names import IMAGE_EXTENSIONS, is_image, kind_of, name_shards
from tests.inputs import write_tars

DECODED = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF"}


def test_every_extension_of_a_format_that_is_decoded_is_on_the_list() -> None:
    Image.init()
    extensions = {extension[1:] for extension, format in Image.registered_extensions().items() if format in DECODED}
    assert extensions <= IMAGE_EXTENSIONS


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.JPG ",
        "a.apng",
        "a.mpo",
        "a.jpg_large",
        "a.jpg:large",
        "b/a.png?name=orig&x=1.5",
        "what?.jpg",
        "_a.png",
    ],
)
def test_what_is_an_image_by_name(name: str) -> None:
    assert is_image(name)
    assert kind_of(name) == "images"


@pytest.mark.parametrize("name", ["jpg", ".jpg", "a.jxl", "._a.jpg", "a.txt", "a.jpg.txt", "a", "a.jpg/b", "a?x.jpg=1"])
def test_what_is_not_an_image_by_name(name: str) -> None:
    assert not is_image(name)


def named(*uris: str, planned: tuple[str, ...] = (), taken: tuple[str, ...] = ()) -> list[str | None]:
    shards = [Shard(f"{i:06d}", uri, 1, "e", "webdataset") for i, uri in enumerate(uris)]
    return [shard.name for shard in name_shards(shards, planned=planned, taken=taken)]


def test_nothing_to_name() -> None:
    assert named() == []


def test_a_base_name_that_is_unique_is_the_name() -> None:
    assert named("s3://b/x/0.tar", "s3://b/x/1.tar") == ["0.tar", "1.tar"]


def test_of_equal_base_names_the_shortest_unique_end_is_the_name() -> None:
    assert named("s3://b/cc/0.tar", "s3://b/laion/0.tar", "s3://b/laion/1.tar") == ["cc/0.tar", "laion/0.tar", "1.tar"]
    assert named("s3://b/x/y/0.tar", "s3://b/z/y/0.tar", "/z/y/0.tar") == [
        "x/y/0.tar",
        "b/z/y/0.tar",
        "000002/0.tar",
    ]
    assert named("s3://a/0.tar", "s3://b/0.tar") == ["a/0.tar", "b/0.tar"]


def test_addresses_that_differ_in_scheme_or_query_alone_are_named_by_their_id() -> None:
    assert named("s3://a/0.tar", "gs://a/0.tar") == ["000000/0.tar", "000001/0.tar"]
    assert named("https://h/0.tar?sig=secret", "https://h/0.tar?sig=other") == ["000000/0.tar", "000001/0.tar"]
    assert named("https://h/0.tar?sig=secret") == ["0.tar"]


def test_names_of_an_earlier_plan_stay_and_are_not_given_again() -> None:
    assert named("s3://b/cc/0.tar", planned=("s3://b/laion/0.tar",), taken=("0.tar",)) == ["cc/0.tar"]
    assert named("s3://c/x/0.tar", planned=("s3://b/x/0.tar",), taken=("x/0.tar",)) == ["c/x/0.tar"]


def test_shards_are_named_when_they_are_found(tmp_path: Path) -> None:
    for folder in ("cc12m", "laion"):
        write_tars(tmp_path / folder, shards=2, images=1)
    (tmp_path / "laion/00001.tar").rename(tmp_path / "laion/00002.tar")
    assert [shard.name for shard in find_shards(str(tmp_path))] == [
        "cc12m/00000.tar", "00001.tar", "laion/00000.tar", "00002.tar"
    ]  # fmt: skip
