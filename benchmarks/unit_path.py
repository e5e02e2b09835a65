"""Which of labeler's functions one unit runs through, from the config to its commit: how many, and how deep.

    make demo && python -m benchmarks.unit_path

One unit of the demo is labeled on the CPU, without Ray, by the functions that the pipeline calls. Counted by phase are
distinct functions, the files they are in, and the deepest stack of labeler's own frames. Lambdas, comprehensions and
the bodies of modules and classes, which run at an import, are not counted. `--list` shows the functions and the deepest
stack. Counts, unlike times, do not depend on the machine.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import labeler
from labeler.config import load_config
from labeler.labeling.recipe import labeler_recipe
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.pipeline.blocks import unit_of, work_block
from labeler.pipeline.source import ReadSettings, ShardWork, units_of
from labeler.pipeline.worker import WorkerSettings, commit, label_items, make_labeler, todo_of
from labeler.shards import Unit

IMAGES = 2  # of the unit
_PACKAGE = str(Path(labeler.__file__).parent) + "/"


@dataclass
class Phase:
    """What ran in one phase.

    Attributes:
        functions: (file, qualified name) of each.
        deepest: the longest stack of them, outermost first.
    """

    functions: set[tuple[str, str]] = field(default_factory=set)
    deepest: list[str] = field(default_factory=list)

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.functions}

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """A profile function: notes a call of one of labeler's functions, in whatever thread."""
        if event != "call" or (file := _file_of(frame)) is None:
            return
        self.functions.add((file, frame.f_code.co_qualname))
        stack = list(_stack(frame))
        if len(stack) > len(self.deepest):
            self.deepest = stack[::-1]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes what runs meanwhile, also in threads that start meanwhile."""
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def _file_of(frame: FrameType) -> str | None:
    """The file in the package that a frame's function is in; None for others', and for what is not a named function."""
    code = frame.f_code
    named = not code.co_name.startswith("<") and code.co_flags & inspect.CO_NEWLOCALS  # which class bodies lack
    return code.co_filename.removeprefix(_PACKAGE) if named and code.co_filename.startswith(_PACKAGE) else None


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if (file := _file_of(frame)) is not None:
            yield f"{file}: {frame.f_code.co_qualname}"
        frame = frame.f_back


def walk_one_unit(config_file: str) -> dict[str, Phase]:
    """Label and commit the first unit of a config's input, into a folder that goes away.

    Returns:
        phase -> what ran in it, in order.
    """
    phases = {name: Phase() for name in ("resolve", "plan", "read", "block", "load", "label", "commit")}
    with tempfile.TemporaryDirectory() as run:
        config = load_config(config_file, [f"output={run}"])
        with phases["resolve"].watched():
            job = resolve_job(config)
        with phases["plan"].watched():
            plan = plan_input(config)
        with phases["read"].watched():
            read = list(units_of(ShardWork(plan[0]), ReadSettings(run, IMAGES, 64 << 20, 256 << 20, (), None)))
        unit = next(work for work in read if isinstance(work, Unit))
        with phases["block"].watched():
            unit = unit_of(work_block(unit))
        settings = WorkerSettings(run, labeler_recipe(job, threads=1), {}, (), 300)
        with phases["load"].watched():
            loaded = make_labeler(settings)
        with phases["label"].watched():
            todo = todo_of(settings, unit)
            rows, seconds = label_items(loaded, unit.shard_id, todo.unit.items, ())
        with phases["commit"].watched():
            commit(settings, todo, rows, seconds, loaded.description)
    return phases


def describe(phases: dict[str, Phase]) -> Iterator[str]:
    """A line a phase, and one about all of them but `load`, which a worker does once and not for each unit."""
    for name, phase in phases.items():
        functions, files = len(phase.functions), len(phase.files)
        yield f"{name:8} depth {len(phase.deepest):3}  {functions:4} functions in {files:3} files"
    path = [phase for name, phase in phases.items() if name != "load"]
    functions, files = (len(set().union(*sets)) for sets in ([p.functions for p in path], [p.files for p in path]))
    yield f"path     depth {max(len(phase.deepest) for phase in path):3}  {functions:4} functions in {files:3} files"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unit_path", description=__doc__.split("\n")[0])
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", help="YAML, as `labeler label` takes it")
    parser.add_argument("--list", action="store_true", help="print the functions of each phase, and its deepest stack")
    asked = parser.parse_args(arguments)
    phases = walk_one_unit(asked.config)
    for name, phase in phases.items() if asked.list else ():
        print(f"{name}\n" + "".join(f"  {place} {call}\n" for place, call in enumerate(phase.deepest, 1)))
        print("".join(f"  {file}: {function}\n" for file, function in sorted(phase.functions)))
    print("\n".join(describe(phases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
