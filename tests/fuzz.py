"""Fuzzing: `python -m tests.fuzz --minutes 10` throws made-up and damaged bytes at all that reads strangers' files.

Each target says by an assertion what must hold. Hypothesis shrinks what it finds and keeps it in .hypothesis/, so that
the next run starts with it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from labeler.config import make_config
from labeler.config_values import read_yaml
from labeler.errors import Refused
from labeler.exports.pixels import upright
from labeler.images import FastJpeg, ImageError, decode, headers, tiff_tags
from labeler.shards.tar_members import TarMember, walk
from labeler.storage import ByteStream
from labeler.vocabulary import Vocabulary
from tests.bad_files import formats, whole_file
from tests.inputs import image_bytes, tar_bytes
from tests.test_hostile_shards import header, member, pax
from tests.test_plain_yaml import TRICKS

BLOCKS = [
    member("0.png"), member("a/1.jpg", b""), pax(("path", "long/" * 40 + "0.png")), pax(("size", "9999999999")),
    pax(("GNU.sparse.major", "1"), ("GNU.sparse.name", "s.png")), header("dir", 0, b"5"), header("link", 0, b"2"),
    header("long", 600, b"L") + b"n" * 600 + bytes(424), header("big.png", 100 << 30), header("old", 10, b"S"),
    header("global", 512, b"g") + b"11 path=xx\n".ljust(512, b"\0"), bytes(512), bytes(1024), b"\xff" * 512,
]  # fmt: skip
IMAGES = [whole_file(format) for format in formats() if format in (*headers.FORMATS, "MPO")]
TEXTS = [
    "- cat\n- {id: 3, name: dog, phrases: [a, b]}\n",
    "cat\ndog / hound # x\n",
    '{"categories": [{"id": 1, "name": "a"}]}',
    "name: x\ncategories: [a]\nnegative: [b]\n",
    "input: a\noutput: {uri: b}\nunit: {max_bytes: 64MiB}\n",
    *(text for text in TRICKS.values() if len(text) < 200),
]


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """`whole` with a few bytes replaced, put in, cut out or repeated."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("set", "insert", "delete", "repeat", "cut")))
        if kind == "set":
            some = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(some)] = some
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=40))
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 600))]
        else:
            del data[at : at + draw(st.integers(1, 600)) if kind == "delete" else None]
    return bytes(data)


tars = st.one_of(
    damaged(st.lists(st.sampled_from(BLOCKS), max_size=6).map(b"".join)),
    damaged(st.just(tar_bytes({"a.png": image_bytes(1), "a.txt": b"x", "ä" * 60 + ".png": b"y"}))),
    st.binary(max_size=2000),
)
images = st.one_of(damaged(st.sampled_from(IMAGES)), st.binary(max_size=600))
texts = st.one_of(
    damaged(st.sampled_from(TEXTS).map(str.encode)), st.binary(max_size=300), st.text(max_size=200).map(str.encode)
)


class _Body(io.BytesIO):
    etag = None

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(data)
        self.size = len(data)
        self.seek(start)


def tar_reader(data: bytes) -> None:
    """Members follow one another in the archive; a broken one ends it; names are text."""

    def members(read_bodies: bool) -> list[TarMember]:
        with ByteStream("memory", lambda start, length, etag: _Body(data, start)) as stream:
            found = []
            for each in walk(stream):
                found.append(each)
                if read_bodies and each.state == "file":
                    assert len(stream.read(each.length)) == each.length
            return found

    found = members(read_bodies=True)
    assert found == members(read_bodies=False)
    end = 0
    for place, each in enumerate(found):
        each.name.encode()
        if each.state in ("truncated", "corrupt"):
            assert place == len(found) - 1
            return
        assert end <= each.offset <= each.offset + each.length <= len(data)
        end = each.offset + each.length


def refused(call: Callable[[], object]) -> list[str]:
    """The lines of a refusal; none where there is none."""
    try:
        call()
    except Refused as error:
        return [str(error), *error.problems]
    return []


def vocabulary_reader(data: bytes) -> None:
    """A vocabulary that can be written out and read back, or an error with one line per problem."""
    for suffix in (".txt", ".yaml", ".json"):
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            file.write(data)
            file.flush()
            lines = refused(lambda file=file: Vocabulary.load(file.name))  # type: ignore[misc]
            assert not any(control in line for line in lines for control in "\n\r\x1b\x00")
            if not lines:
                loaded = Vocabulary.load(file.name)
                assert Vocabulary.from_json(loaded.to_json()) == loaded
                loaded.fingerprint.encode()


def config_reader(data: bytes) -> None:
    """A config or one line, from a file and from overrides."""
    overrides = [data.decode("utf-8", "replace"), "input=" + data.decode("latin-1")]
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        lines = refused(lambda: make_config(read_yaml(path)).model_dump_json())
    lines += refused(lambda: make_config({"output": "o"}, overrides).model_dump_json())
    assert not any("\n" in line for line in lines)


def image_header_check(data: bytes) -> None:
    """It never fails but by ValueError, keeps no more than it was given, and agrees with itself."""
    name = headers.sniff(data)
    assert name is None or name in headers.FORMATS
    said = headers.describe_unknown(data)
    assert said.isprintable()
    assert len(said) < 100
    size = headers.webp_size(data)
    assert size is None or min(size) >= 0
    assert 1 <= tiff_tags.exif_orientation(data) <= 8
    claims = tiff_tags.tiff_claims(data)
    assert claims.numbers >= 0
    for split in (headers.split_jpeg, headers.split_png):
        kept, exif = split(data)
        assert len(kept) + len(exif) <= len(data)
    assert len(headers.split_gif(data)) <= len(data)


def image_decoder(data: bytes) -> None:
    """Upright RGB within the limit, or a reason that is the same the second time, and by the fast decoder."""
    assert _decoded(data) == _decoded(data, FastJpeg.installed())


def _decoded(data: bytes, fast_jpeg: FastJpeg | None = None) -> bytes | str:
    try:
        image = decode(data, max_pixels=100_000, fast_jpeg=fast_jpeg)
    except ImageError as error:
        reason = str(error)
        assert reason.isprintable()
        return reason
    assert image.width * image.height <= 100_000
    pixels = upright(data, image.orientation).data
    if headers.sniff(data) != "JPEG" or image.orientation == 1:
        assert _pillow_sees(pixels, image.pixels)
    return image.pixels.tobytes()


def _pillow_sees(data: bytes, expected: np.ndarray) -> bool:
    with pillow.open(io.BytesIO(data)) as opened:
        return np.array_equal(np.asarray(opened.convert("RGB")), expected)


TARGETS: dict[str, tuple[Callable[[bytes], None], st.SearchStrategy[bytes]]] = {
    "tar reader": (tar_reader, tars),
    "vocabulary reader": (vocabulary_reader, texts),
    "config reader": (config_reader, texts),
    "image header check": (image_header_check, images),
    "image decoder": (image_decoder, images),
}


def run(name: str, *, examples: int, number: int) -> None:
    """Try that many examples on a target; raise the shrunk failure."""
    check, strategy = TARGETS[name]

    @seed(number)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(strategy)
    def hold(data: bytes) -> None:
        check(data)

    hold()


def main(minutes: float, first: int) -> int:
    found = 0
    for name in TARGETS:
        end, rounds = time.monotonic() + 60 * minutes / len(TARGETS), 0
        while time.monotonic() < end:
            try:
                run(name, examples=500, number=first + rounds)
            except Exception:
                found += 1
                traceback.print_exc()
                break
            rounds += 1
        print(f"{name}: {500 * rounds:,} examples", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="in all")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    arguments = parser.parse_args()
    sys.exit(main(arguments.minutes, arguments.seed))
