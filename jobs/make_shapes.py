"""Draw the shapes data set: `python -m jobs.make_shapes OUT --images 200 --seed 0`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from labeler.errors import LabelerError
from labeler.training import shapes


def main(arguments: Sequence[str] | None = None) -> int:
    """Write shards, annotations.json and vocabulary.txt; returns the exit code (0, or 2 with one line on stderr)."""
    asked = _parser().parse_args(arguments)
    try:
        written = shapes.write_data_set(
            asked.out,
            images=asked.images,
            seed=asked.seed,
            images_per_shard=asked.images_per_shard,
            combinations=shapes.select(asked.combinations),
            sizes=asked.size or shapes.SIZES,
            image_format=asked.format,
            captions=asked.captions,
            natural=asked.natural,
        )
    except LabelerError as error:
        print(f"make_shapes: {error}", file=sys.stderr)
        return error.exit_code
    print(f"images:       {written.images} in {len(written.shards)} shards, {written.objects} objects")
    print(f"first shard:  {written.shards[0]}")
    print(f"ground truth: {written.annotations}")
    print(f"vocabulary:   {written.vocabulary}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.make_shapes", description=__doc__)
    parser.add_argument("out", help="a local folder or an object-storage URL")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images-per-shard", type=int, default=50)
    parser.add_argument("--combinations", choices=["all", "seen", "held_out"], default="all", help="what may appear")
    parser.add_argument("--size", type=_size, action="append", help="WIDTHxHEIGHT; may be given several times")
    parser.add_argument("--format", choices=["jpeg", "png"], default="jpeg")
    parser.add_argument("--captions", action=argparse.BooleanOptionalAction, default=True, help="a .json beside each")
    parser.add_argument(
        "--natural",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of images before a drawn background like a photograph's",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
