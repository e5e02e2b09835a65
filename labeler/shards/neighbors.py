"""Whether one image is gone, or all of them: asked of its neighbors when an image of a group cannot be had."""

from __future__ import annotations

import os
from collections.abc import Sequence

from labeler import storage
from labeler.shards.units import Member

LOOKED_AT = 20  # objects, before an input is held to be gone


def require_neighbors(members: Sequence[Member], index: int, root: str) -> None:
    """Make sure that the input is still there, although image `index` of the group is not.

    A folder that was unmounted or renamed, or a prefix that is denied now, would else be rows with read errors.

    Args:
        root: the folder that the input is in.

    Raises:
        StorageError: if the folder is gone, or none of LOOKED_AT other images is there, or of fewer none and nothing
            else in the folder.
    """
    shown = storage.redact(root)
    if root and storage.is_local(root) and not os.path.isdir(root.removeprefix("file://")):
        raise storage.StorageError(f"the input's folder {shown} is not there any more; bring it back, then run again")
    others = min(LOOKED_AT, len(members) - 1)
    for step in range(1, others + 1):
        if _is_there(members[(index + step * len(members) // (others + 1)) % len(members)]):
            return
    if others == LOOKED_AT or not _holds_anything(root):
        raise storage.StorageError(
            f"input {shown} seems to be gone: {storage.redact(members[index].uri)} and {others} other images cannot be "
            "had; bring it back, then run again"
        )


def _holds_anything(root: str) -> bool:
    """Return whether anything is in the folder, of which few images are known; a web server may not
    list its folders.
    """
    if not root or storage.is_web(root):
        return True
    try:
        return next(iter(storage.list_objects(root)), None) is not None
    except storage.Unreadable:
        return False


def _is_there(member: Member) -> bool:
    try:
        return storage.head(member.uri) is not None
    except storage.Unreadable:
        return False
