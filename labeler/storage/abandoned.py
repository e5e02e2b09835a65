"""Remove unfinished local files of processes that were killed, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from labeler.storage.local_walk import TEMPORARY_FOLDER
from labeler.storage.local_writes import scratch_folder_of_run
from labeler.storage.scratch_names import Unfinished, folder_mark, mark, parse_local


def remove_abandoned(path: str) -> None:
    """Remove what was left of writes to the file `path`, or to files below the folder `path`.

    What cannot be removed stays: it is never listed.
    """
    folder, name = os.path.split(path)
    _tidy(folder, lambda left: left.name == mark(name))
    for below, folders, _ in os.walk(path):
        if TEMPORARY_FOLDER in folders:
            folders.remove(TEMPORARY_FOLDER)
        _tidy(below, lambda left: True)


def _tidy(folder: str, is_wanted: Callable[[Unfinished], bool]) -> None:
    """Remove what is abandoned, and wanted, of writes into one folder."""
    with suppress(OSError):
        beside, of_run = os.path.join(folder, TEMPORARY_FOLDER), scratch_folder_of_run(folder)
        for scratch in {beside, of_run or beside}:
            if not os.path.islink(scratch):
                _tidy_scratch(scratch, folder_mark(scratch, folder), is_wanted)
        if beside != of_run:
            os.rmdir(beside)  # not empty: somebody else is writing


def _tidy_scratch(scratch: str, folder: str, is_wanted: Callable[[Unfinished], bool]) -> None:
    with suppress(OSError), os.scandir(scratch) as entries:
        for entry in entries:
            left = parse_local(entry.name)
            if left is None or left.folder != folder or not is_wanted(left):
                continue
            with suppress(OSError):  # another export removes it, too
                found = entry.stat(follow_symlinks=False)
                if left.is_abandoned(found.st_mtime):
                    os.unlink(entry.path)
