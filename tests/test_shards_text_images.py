"""Images inside text columns: base64 and data: URIs, beside addresses."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from labeler.shards.text_images import holds_image, image_of
from tests.inputs import image_bytes
from tests.test_shards_parquet import items_of, write

IMAGES = {format: image_bytes(1, format=format) for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}


def spelled(data: bytes) -> dict[str, str]:
    plain = base64.b64encode(data).decode()
    return {
        "plain": plain,
        "without padding": plain.rstrip("="),
        "for URLs": base64.urlsafe_b64encode(data).decode(),
        "in lines": base64.encodebytes(data).decode(),
        "data": f"data:image/jpeg;base64,{plain}",
        "DATA": f"DATA:;charset=x;base64,{plain}",
        "percent": f"data:image/png,{quote_from_bytes(data)}",
    }


@pytest.mark.parametrize("data", IMAGES.values(), ids=IMAGES)
def test_each_spelling_gives_the_bytes(data: bytes) -> None:
    for text in spelled(data).values():
        assert holds_image(text)
        assert image_of(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.jpg",
        "s3://b/a.jpg",
        "https://h/a?x=1",
        "/9j/4AAQ",
        "a" * 100,
        "images/" * 20,
        "/" + "x/" * 2000 + "a.jpg",
    ],
)
def test_addresses_are_not_taken_for_images(text: str) -> None:
    assert not holds_image(text)


@pytest.mark.parametrize("name", ["image", "image_base64", "b64", "jpg", "data", "bytes"])
def test_a_column_of_base64_is_a_column_of_images(tmp_path: Path, name: str) -> None:
    texts = list(spelled(IMAGES["JPEG"]).values())
    shard = write(tmp_path / "x.parquet", {"caption": ["c"] * len(texts), name: texts})
    items = items_of(shard)
    assert [(item.key, item.data, item.error) for item in items] == [
        (str(i), IMAGES["JPEG"], None) for i in range(len(texts))
    ]
    assert {(item.uri, item.offset) for item in items} == {(shard.uri, None)}


def test_images_and_addresses_may_share_a_column_and_each_bad_cell_is_its_own_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(IMAGES["JPEG"])
    whole = base64.b64encode(IMAGES["PNG"]).decode()
    cells = ["a.jpg", whole, whole[:200] + "*" + whole[200:], "data:image/png;base64", "!" * 9000, None]
    items = items_of(write(tmp_path / "x.parquet", {"image": cells}))
    assert [(item.data, item.error) for item in items] == [
        (IMAGES["JPEG"], None),
        (IMAGES["PNG"], None),
        (None, "not valid base64"),
        (None, "not valid base64"),
        (None, "not valid base64"),
        (None, "null image"),
    ]


def test_a_huge_text_is_too_large_and_not_decoded(tmp_path: Path) -> None:
    (item,) = items_of(write(tmp_path / "x.parquet", {"image": ["A" * 40_000]}), max_image_bytes=20_000)
    assert item.error == "member of 30000 bytes is larger than 20000"
