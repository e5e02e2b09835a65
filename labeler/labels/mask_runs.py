"""Run lengths of COCO's compressed masks, checked before pycocotools reads them.

pycocotools trusts them. It compares two masks of one size in an endless loop if the runs of one do not fill that size.
It reads past the end of a text that is cut off. A run length is written in characters of 6 bits (0 is "0"),
low bits first; bit 5 says that another one follows, and bit 4 of the last one is the sign. From the fourth run on it is
the difference to the run before the last (`rleToString` in maskApi.c of cocoapi).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
_FIRST, _CHARACTERS = ord("0"), 64
_MORE, _SIGN, _VALUE, _BITS = 32, 16, 31, 5
_LONGEST = 7  # characters of a run: 35 bits, and pycocotools' own runs have 32


def each_fills(text: npt.NDArray[np.uint8], offsets: Ints, pixels: Ints) -> Bools:
    """Return for each of n masks whether its runs are well written and together as long as its image has pixels.

    Args:
        text: the masks' counts, one after the other.
        offsets: (n + 1,) where each begins in `text`, and where the last one ends.
        pixels: (n,) height times width, of each.
    """
    lengths = np.diff(offsets)
    good: Bools = (lengths > 0) & (pixels > 0)
    characters = text[offsets[0] : offsets[-1]] - np.uint8(_FIRST)  # what is below "0" wraps around to above
    if not len(characters):
        return good
    mask_of = np.repeat(np.arange(len(lengths)), lengths)
    last = (offsets[1:] - offsets[0] - 1)[lengths > 0]
    more = (characters & _MORE) > 0
    good[mask_of[last[more[last]]]] = False  # cut off
    good[mask_of[characters >= _CHARACTERS]] = False
    more[last] = False
    runs, mask_of_run, too_long = _runs(characters, ~more, mask_of)
    good[too_long] = False
    lengths_px = _undo_differences(runs, mask_of_run)
    good[mask_of_run[(lengths_px < 0) | (lengths_px > pixels[mask_of_run])]] = False
    good &= _sums(lengths_px, mask_of_run, len(lengths)) == pixels
    return good


def _runs(characters: npt.NDArray[np.uint8], is_last: Bools, mask_of: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the written numbers, the mask of each, and the masks in which one is longer than any run."""
    ends = np.flatnonzero(is_last)
    starts = np.append(0, ends[:-1] + 1)
    widths = ends - starts + 1
    shift = np.minimum(np.arange(len(characters)) - np.repeat(starts, widths), _LONGEST) * _BITS
    numbers = np.add.reduceat((characters & _VALUE).astype(np.int64) << shift, starts)
    negative = (characters[ends] & _SIGN) > 0
    numbers[negative] -= np.int64(1) << np.minimum(widths, _LONGEST)[negative] * _BITS
    return numbers, mask_of[ends], mask_of[ends[widths > _LONGEST]]


def _undo_differences(numbers: Ints, mask_of_run: Ints) -> Ints:
    """Return the run lengths: from the fourth of a mask on, a number is the difference to the run two before it."""
    firsts = np.flatnonzero(np.diff(mask_of_run, prepend=-1))
    place = np.arange(len(numbers)) - np.repeat(firsts, np.diff(firsts, append=len(numbers)))
    lengths = numbers.copy()
    for chain in ((place % 2 == 1), (place % 2 == 0) & (place > 0)):  # the first run is in neither
        rows = np.flatnonzero(chain)
        if len(rows):
            total = np.cumsum(numbers[rows])
            begins = np.flatnonzero(np.diff(mask_of_run[rows], prepend=-1))
            before = np.append(0, total)[begins]
            lengths[rows] = total - np.repeat(before, np.diff(begins, append=len(rows)))
    return lengths


def _sums(lengths: Ints, mask_of_run: Ints, masks: int) -> Ints:
    """Return the sum of each mask's runs, exact: `bincount` would add as floats."""
    total = np.append(0, np.cumsum(lengths))
    return np.diff(total[np.searchsorted(mask_of_run, np.arange(masks + 1))])
