"""What a job takes along to the cluster: the working folder as Ray itself packs it, the config, and labeler."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ray._private import ray_constants
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

import labeler
from labeler import storage
from labeler.config import Config
from labeler.errors import Refused

MAX_BYTES = 95 << 20  # a job server takes 100 MiB with all around it; what is larger is data, read from storage
_OLDEST = (1980, 1, 1, 0, 0, 0)  # of a file in a ZIP: equal content gives equal bytes, which are uploaded once
_NAMED = 3
_CREDENTIALS = frozenset({".aws", ".env", ".netrc", ".ssh", ".git-credentials"})  # names of files and folders
_SILENT = logging.getLogger("labeler.submission.package")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True)
class Package:
    """Files of a job.

    Attributes:
        files: path in the package -> file here.
        config: path of the config in the package.
        size: bytes of the files, as they were when they were collected.
    """

    files: Mapping[str, Path]
    config: str
    size: int

    def __str__(self) -> str:
        return f"{len(self.files):,} files, {self.size / 1e6:.1f} MB"

    def write(self, path: Path) -> None:
        """Write the ZIP file that Ray unpacks on each node; equal files give equal bytes.

        Raises:
            Refused: a file cannot be read, or is gone.
        """
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name, _OLDEST)
                try:
                    mode, content = file.stat().st_mode, file.read_bytes()
                except OSError as error:
                    raise Refused(f"{file} cannot be sent: {error.strerror}; name it in .rayignore") from None
                entry.external_attr = (0o100000 | (mode & 0o777)) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)


def collect(folder: Path, config: Path) -> Package:
    """Return what a job started from a folder takes along.

    `ray job submit --working-dir FOLDER` sends the same: everything except what `.rayignore`, `.gitignore` and Ray
    omit. Files and folders that usually hold credentials are excluded. The config is added wherever it is, and this
    labeler, unless the folder holds one.

    Raises:
        Refused: the folder does not exist, the config is not a file, or the folder is too large for a job's code.
    """
    if not folder.is_dir():
        raise Refused(f"--working-dir {folder} is not a folder")
    if not config.is_file():
        raise Refused(f"config {config} is not a file, and cannot travel with the job; save it to one")
    files = _files_of(folder)
    name = _name_in(files, config)
    files[name] = config
    if "labeler/__init__.py" not in files:
        own = Path(labeler.__file__).parent
        files |= {f"labeler/{part}": file for part, file in _files_of(own).items()}
    return Package(files, name, sum(file.stat().st_size for file in files.values()))


def _name_in(files: Mapping[str, Path], config: Path) -> str:
    """Return the config's own path where it is in the package anyway, else a free name at its top."""
    here = config.resolve()
    inside = next((name for name, file in files.items() if file.name == config.name and file.resolve() == here), None)
    if inside is not None:
        return inside
    name = config.name
    while name in files:
        name = f"submitted-{name}"
    return name


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that Ray would send, by their path in it."""
    root = folder.absolute()
    found: dict[str, Path] = {}
    sizes: Counter[str] = Counter()

    def take(path: Path) -> None:
        name = path.relative_to(root).as_posix()
        if not path.is_file() or _CREDENTIALS.intersection(PurePosixPath(name).parts):
            return
        found[name] = path
        sizes[PurePosixPath(name).parts[0]] += path.stat().st_size
        if sizes.total() > MAX_BYTES:
            raise _TooLarge

    excludes = [_get_excludes(root, ray_constants.get_runtime_env_default_excludes())]
    with_gitignore = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    try:
        _dir_travel(root, excludes, take, include_gitignore=with_gitignore, logger=_SILENT)
    except _TooLarge:
        largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.most_common(_NAMED))
        raise Refused(
            f"the working folder {folder} holds more than {MAX_BYTES >> 20} MiB to send ({largest}); name what is not "
            "code in its .rayignore, or choose another --working-dir"
        ) from None
    except OSError as error:
        raise Refused(f"the working folder {folder} cannot be read: {error.strerror} ({error.filename})") from None
    return found


class _TooLarge(Exception):
    """The folder is too large."""


def require_reachable(config: Config, folder: Path, package: Package) -> None:
    """Raise Refused where the config names a file of this machine that the job would not find, or a folder it loses."""
    for key, uri in (*(("input", uri) for uri in config.input_uris), ("output", config.output.uri)):
        if _is_relative(uri):
            raise Refused(
                f"{key} {uri} is a relative path, and a job on a cluster starts in a temporary folder; use object "
                "storage, or the absolute path of a file system that all nodes share"
            )
    named = {"vocabulary": config.vocabulary, "model.name": config.model.name}
    named |= {"masks.model": config.masks.model if config.masks else None}
    named |= {"rescore.model": config.rescore.model if config.rescore else None}
    for key, path in named.items():
        if not isinstance(path, str) or not _is_relative(path) or not (folder / path).exists():
            continue
        inside = PurePosixPath(os.path.normpath(path))
        if not any(inside == name or inside in name.parents for name in map(PurePosixPath, package.files)):
            raise Refused(
                f"{key} {path} does not travel with the job: it is excluded by .rayignore or .gitignore, or outside "
                f"{folder}; put it on storage that all nodes see"
            )


def _is_relative(uri: str) -> bool:
    return storage.is_local(uri) and not uri.removeprefix("file://").startswith(("/", "~"))
