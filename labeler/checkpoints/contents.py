"""What the files of a checkpoint say, whatever model it is: settings, and a digest after a look at the weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler import plain_json, storage
from labeler.checkpoints.files import CONFIG, IMAGE_PROCESSOR, TOKENIZER, WEIGHTS, WEIGHTS_INDEX
from labeler.checkpoints.located import Located
from labeler.digests import new_digest
from labeler.errors import Refused

_STREAM_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that lies on this machine and was looked at.

    Attributes:
        folder: where its files are, in transformers' layout.
        name: what the user called it, without secrets.
        revision: the hub's commit, or None for a folder or URL.
        digest: blake2b-128 (hex) over names and bytes of the files that determine outputs; "" without weights.
        architecture: the name of its class in transformers.
    """

    folder: Path
    name: str
    revision: str | None
    digest: str
    architecture: str


def model_config(found: Located) -> dict[str, Any]:
    """Return what `config.json` says. Refused where there is none."""
    if not (found.folder / CONFIG).is_file():
        raise Refused(f"checkpoint {found.name} has no {CONFIG}; it must be a folder in the layout of transformers")
    return _read_json(found.folder / CONFIG)


def digest_of(found: Located) -> str:
    """Return the checkpoint's digest, after a look at every weight file. Refused where weights are
    missing or damaged.
    """
    return _digest(found.folder, _weight_files(found.folder, found.name))


def digest_of_folder(folder: Path) -> str:
    """Return a digest over every file in a folder and below it, links followed: a user's detector may read any.

    Hidden files and what Python compiles of others are excluded.
    """
    names, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name != "__pycache__" and os.path.realpath(Path(here, name)) not in seen
        ]
        names += [Path(here, name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    return _digest_of_files(folder, sorted(name for name in names if (folder / name).is_file()))


def image_processor_config(folder: Path) -> dict[str, Any]:
    """Return the image processor's settings of a checkpoint folder, {} when it has none (then the defaults hold)."""
    for file_name in IMAGE_PROCESSOR:
        if (folder / file_name).is_file():
            found = _read_json(folder / file_name)
            # Newer checkpoints keep all their processors in one file.
            found = found.get("image_processor", {}) if file_name == "processor_config.json" else found
            if isinstance(found, dict) and found:
                return found
    return {}


def _weight_files(folder: Path, name: str) -> list[str]:
    """Return names of the weight files that transformers would load, after a look at each one's header and length."""
    from safetensors import SafetensorError, safe_open

    if (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    elif (folder / WEIGHTS_INDEX).is_file():
        shards = _read_json(folder / WEIGHTS_INDEX).get("weight_map", {}).values()
        files = [WEIGHTS_INDEX, *sorted(set(map(str, shards)))]
    else:
        raise Refused(
            f"checkpoint {name} has no {WEIGHTS}; weights in other formats (.bin, .pth) are never read, because they "
            "can run code: convert them with transformers' save_pretrained"
        )
    for file_name in files:
        if not (folder / file_name).is_file():
            raise Refused(f"checkpoint {name} lacks {file_name}, which {WEIGHTS_INDEX} names")
        if file_name.endswith(".safetensors"):
            try:
                with safe_open(folder / file_name, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                raise Refused(
                    f"checkpoint {name}: {file_name} is corrupt or cut short ({error}); fetch it again"
                ) from None
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = plain_json.parse(storage.read_regular(path))
    except (OSError, ValueError) as error:
        raise Refused(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"cannot read {path}: it should hold a JSON object, and holds a {type(found).__name__}")
    return found


def _digest(folder: Path, weight_files: list[str]) -> str:
    """blake2b-128 over (name, length, bytes) of every file that determines outputs, in order of name."""
    present = [name for name in (CONFIG, *IMAGE_PROCESSOR, *TOKENIZER) if (folder / name).is_file()]
    return _digest_of_files(folder, sorted([*present, *weight_files]))


def _digest_of_files(folder: Path, names: Sequence[str]) -> str:
    """blake2b-128 over (name, length, bytes) of each file."""
    digest = new_digest()
    for name in names:
        digest.update(f"{name}\0{(folder / name).stat().st_size}\0".encode())
        with storage.open_regular(folder / name) as file:
            while piece := file.read(_STREAM_BYTES):
                digest.update(piece)
    return digest.hexdigest()
