"""How `pytest -n` shares tests out."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.needs import needs_of


class ByFile(LoadScopeScheduling):
    """A file's tests run in one process, so that what its fixtures make is made once; all files with Ray are one.

    Ray takes both cores of a small machine and most of its memory: two at once make each other late.
    (xdist's own `xdist_group` does nothing with pytest 9.2: xdist 3.8 sets an attribute that pytest reads no more.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if "ray" in needs_of(PurePosixPath(file).stem) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile | None:
    """Where nothing else is asked for by `--dist`."""
    return ByFile(config, log) if config.getoption("dist") == "load" else None
