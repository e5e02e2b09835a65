"""A user's own detector: the Python module that `model.family` names, found here and found again on a worker."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.prompts.family import Family
from labeler.prompts.module_family import ModuleFamily

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_INTERFACE = "it exposes VERSION (an int) and class Detector, or family"
_SHIP = "ship it with the job: ray job submit --working-dir FOLDER, or py_modules in its --runtime-env-json"


@dataclass(frozen=True)
class UserModule:
    """A module as it was found where the job was started. Picklable, without anything of the module itself.

    Attributes:
        name: dotted, as `model.family` has it.
        version: its VERSION, or that of its family.
        digest: blake2b-128 (hex) of its source file.
        root: the folder that it was imported from; tried on workers, too, where it is there.
    """

    name: str
    version: int
    digest: str
    root: str

    @staticmethod
    def find(name: str) -> UserModule:
        """Return the module of a name; the current folder is looked in as well, as `python -m` does.

        Raises:
            Refused: it is not there, cannot be imported, or lacks its parts.
        """
        if not _NAME.fullmatch(name):
            raise Refused(
                f"model.family is the name of a Python module with a detector of your own, and {name!r} is not one; "
                "for labeler's own families leave it out: the checkpoint says which"
            )
        module = _imported(name, os.getcwd(), "put its folder on PYTHONPATH, or start the command beside it")
        family = _family_of(module, name)
        return UserModule(name, family.version, _digest_of(module, name), _root(module, name))

    def family(self) -> Family:
        """Return the family that it defines, or the one that stands for its `Detector`.

        Raises:
            Refused: the module is not here, cannot be imported, or is another than where the job was started.
        """
        return _family_of(self._module(), self.name)

    def detector_class(self) -> Any:
        """Return its `Detector`. Refused as `family`."""
        return self._module().Detector

    def _module(self) -> ModuleType:
        module = _imported(self.name, self.root, _SHIP)
        found = _digest_of(module, self.name)
        if found != self.digest:
            raise Refused(
                f"model.family {self.name} on node {platform.node()} is another file (digest {found}) than where the "
                f"job was started ({self.digest}); {_SHIP}"
            )
        return module


def _imported(name: str, folder: str, advice: str) -> ModuleType:
    """Return the module; where it is not found, again with a folder behind all others."""
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        if not _is_of(error, name):
            raise _refused(name, error) from error
    if folder not in sys.path and Path(folder).is_dir():
        sys.path.append(folder)
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        if not _is_of(error, name):
            raise _refused(name, error) from error
        raise Refused(f"model.family {name}: there is no such module on node {platform.node()}; {advice}") from None


def _import(name: str) -> ModuleType:
    invalidate_caches()  # the file may be newer than the last look into its folder
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as error:
        raise _refused(name, error) from error


def _is_of(error: ModuleNotFoundError, name: str) -> bool:
    """Return whether the module itself is what was not found, or a package that it is in, and not what it imports."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")


def _refused(name: str, error: BaseException) -> Refused:
    return Refused(f"model.family {name} cannot be imported on node {platform.node()}: {described(error)}")


def described(error: BaseException) -> str:
    """Return an error of a user's code in one line: its type, and the first line of what it says."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _family_of(module: ModuleType, name: str) -> Family:
    parts = vars(module)
    if "family" in parts:
        family: Family = parts["family"]
        _require(name, hasattr(family, "planner") and hasattr(family, "network"), "its family is not one of labeler's")
        return family
    missing = [part for part in ("VERSION", "Detector") if part not in parts]
    _require(name, not missing, f"it has no {' and no '.join(missing)}")
    version, detector, options = parts["VERSION"], parts["Detector"], parts.get("OPTIONS", ())
    _require(name, type(version) is int, f"its VERSION is {version!r}")
    _require(
        name, isinstance(detector, type) and hasattr(detector, "detect"), "its Detector is not a class with `detect`"
    )
    _require(name, _are_names(options), f"its OPTIONS are not names: {options!r}")
    return ModuleFamily(name, version, frozenset(options))


def _are_names(options: Any) -> bool:
    return isinstance(options, Iterable) and not isinstance(options, str) and all(isinstance(o, str) for o in options)


def _require(name: str, good: bool, problem: str) -> None:
    if not good:
        raise Refused(f"model.family {name} is not a detector: {problem}; {_INTERFACE}")


def _digest_of(module: ModuleType, name: str) -> str:
    """Of the module's source. Refused where that is not any more what this process imported."""
    try:
        found = _digest_of_files(_sources(module))
    except OSError as error:
        raise Refused(f"model.family {name}: {error.filename} cannot be read: {error.strerror}") from None
    if vars(module).setdefault("__labeler_digest__", found) != found:
        raise Refused(f"model.family {name} was changed after this process imported it; start the command again")
    return found


def _sources(module: ModuleType) -> list[Path]:
    """Return the file of a module by itself; of one in a package every .py of its folder and below, whichever it
    imports.
    """
    source = _source(module)
    return sorted(source.parent.rglob("*.py")) if module.__package__ else [source]


def _digest_of_files(sources: Sequence[Path]) -> str:
    """Of one file its own digest, of several one over their names and contents."""
    if len(sources) == 1:
        return digest_of(sources[0].read_bytes())
    folder = Path(os.path.commonpath(sources))
    lines = [f"{path.relative_to(folder).as_posix()} {digest_of(path.read_bytes())}" for path in sources]
    return digest_of("\n".join(lines).encode())


def _source(module: ModuleType) -> Path:
    file = module.__file__
    if file is None:
        raise Refused(f"model.family {module.__name__} is a folder without __init__.py; name the module in it")
    return Path(file)


def _root(module: ModuleType, name: str) -> str:
    source = _source(module).absolute()
    folders = name.count(".") + (source.name == "__init__.py")
    return str(source.parents[folders])
