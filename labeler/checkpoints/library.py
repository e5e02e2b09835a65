"""Which transformers runs a checkpoint rightly."""

from __future__ import annotations

from importlib import metadata

from packaging.version import Version

from labeler.errors import Refused

_OLDEST = Version("5.23")


def check_transformers() -> None:
    """5.20 to 5.22 round the sines of a text's positions to whole numbers, and give a phrase's end the position 0.

    Raises:
        Refused: such a version, or an older one, is installed.
    """
    installed = metadata.version("transformers")
    if Version(installed) < _OLDEST:
        raise Refused(
            f"transformers {installed} is installed, and computes the positions of a prompt's tokens wrongly: "
            f"pip install 'transformers>={_OLDEST}'"
        )
