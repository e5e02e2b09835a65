"""Pages and images: labeler recognizes its own and replaces them; any other file stays without `--force`."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler import signature
from labeler.cli import main
from labeler.labels.contact_sheet import Tile, describe_sheet, draw_contact_sheet
from tests.inputs import image_bytes, write_tars
from tests.review_runs import write_input, write_run
from tests.test_cli import refusal, write_config

PAGE = b"<!doctype html>\n<title>My notes</title>\n"


def runs(folder: Path) -> list[str]:
    """Folders of two runs over the same images."""
    source = write_input(folder / "in", "webdataset", count=4)
    return [write_run(folder / name, source, seed=seed).uri for seed, name in enumerate("ab")]


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_page_replaces_a_page_of_labeler_and_nothing_else(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.html"
    first, second = runs(tmp_path)
    words = [command, first, *([second] if command == "compare" else []), "--output", str(target)]
    target.write_bytes(PAGE)
    line = refusal(capsys, *words)
    assert "is there and is not a page by `labeler report` or `labeler compare`" in line
    assert line.endswith("choose another --output, or replace it with --force")
    assert target.read_bytes() == PAGE
    assert not (Path(first) / "made").exists(), "it is refused before anything is done"
    assert main([*words, "--force"]) == 0
    assert f"replaces: {len(PAGE)} bytes" in capsys.readouterr().out
    written = target.read_bytes()
    assert main(words) == 0, "its own page it may replace"
    assert "replaces: an earlier page" in capsys.readouterr().out
    assert target.read_bytes() == written


def test_the_numbers_beside_a_comparison_replace_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *runs(tmp_path), "--output", str(tmp_path / "annotations.html")]
    numbers = tmp_path / "annotations.json"
    numbers.write_text('{"images": []}')
    assert "annotations.json is there and is not numbers by `labeler compare`" in refusal(capsys, *words)
    assert numbers.read_text() == '{"images": []}'
    assert not (tmp_path / "annotations.html").exists()
    numbers.unlink()
    assert main(words) == 0
    assert "replaces" not in capsys.readouterr().out
    assert main(words) == 0
    assert "replaces: an earlier comparison" in capsys.readouterr().out


def test_a_preview_replaces_a_preview_and_nothing_else(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    config = write_config(tmp_path / "config.yaml", tmp_path / "in", tmp_path / "out", checkpoint)
    picture = tmp_path / "photograph.png"
    photograph = image_bytes(0, format="PNG")
    picture.write_bytes(photograph)
    words = ["preview", str(config), "--images", "1", "--png", str(picture)]
    line = refusal(capsys, *words, "model.name=/nowhere/model")  # the file is looked at before the model
    assert "photograph.png is there and is not an image by `labeler preview`; choose another --png" in line
    assert picture.read_bytes() == photograph
    assert main([*words, "--force"]) == 0
    assert f"replaces: {len(photograph):,} bytes" in capsys.readouterr().out
    assert main(words) == 0, "it may replace its own image"
    assert "replaces: an earlier image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        image_bytes(0, format="PNG"),
        b"GIF89a" + draw_contact_sheet([])[6:],
        draw_contact_sheet([]).replace(b"\0labeler", b"\0another"),
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtSoftware\0labeler by somebody else",
    ],
)
def test_other_bytes_are_not_a_picture_of_labeler(start: bytes) -> None:
    assert describe_sheet(start) is None
    assert signature.describe_page(start) is None


def test_a_large_picture_is_known_by_its_first_bytes() -> None:
    sheet = draw_contact_sheet([Tile(None, problem=str(number)) for number in range(60)])
    assert len(sheet) > 2 * signature.HEAD_BYTES
    assert describe_sheet(sheet[: signature.HEAD_BYTES]) == "an earlier image"
