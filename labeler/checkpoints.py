"""Find a checkpoint: a hub name, a local folder or an object-storage URL becomes a checked local folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.errors import Refused, StorageError

ARCHITECTURES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
DEFAULT_IMAGE_SIZE = (800, 1333)  # what both families were trained with; for checkpoints that do not say

CONFIG = "config.json"
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_METADATA_PATTERNS = (CONFIG, *IMAGE_PROCESSOR, "tokenizer*", "vocab.txt", "special_tokens_map.json")
_WEIGHTS_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
_STREAM_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that lies on this machine and passed the checks of `resolve`.

    Attributes:
        folder: where its files are, in transformers' layout.
        name: what the user called it, without secrets.
        revision: the hub's commit, or None for a folder or URL.
        digest: blake2b-128 (hex) over names and bytes of the files that determine outputs; "" without weights.
        architecture: the name of its class in transformers, for detectors one of `ARCHITECTURES`' values.
        image_size: (shortest edge, longest edge) in pixels, from the image processor's settings.
    """

    folder: Path
    name: str
    revision: str | None
    digest: str
    architecture: str
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Located:
    """A folder on this machine that should hold a checkpoint; nothing in it was looked at yet.

    Attributes:
        name: what the user called it, without secrets.
        revision: the hub's commit, or None for a folder or URL.
    """

    folder: Path
    name: str
    revision: str | None


def resolve(name: str | Path, *, revision: str | None = None, weights: bool = True) -> Checkpoint:
    """Fetch a detector's checkpoint if it is not here yet, and check it.

    Args:
        name: as `locate` takes it.
        revision: branch, tag or commit, for hub names only.
        weights: False fetches and checks only config, tokenizer and image settings: enough to check a vocabulary.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network, the permission or the files.
    """
    return _check(locate(name, revision=revision, weights=weights), weights)


def locate(name: str | Path, *, revision: str | None = None, weights: bool = True, section: str = "model") -> Located:
    """Fetch a checkpoint's files if they are not here yet.

    Args:
        name: "org/name" on the Hugging Face hub (HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured), a local folder
            (used in place), or a URL of a folder on object storage (fetched once per node into `cache_folder()`).
        revision: branch, tag or commit, for hub names only.
        weights: False leaves them where they are.
        section: of the config, for messages.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network or the permission.
    """
    name = str(name)
    shown = storage.redact(name)
    is_url = "://" in name and not name.startswith("file://")
    local = Path(name.removeprefix("file://")).expanduser()
    if revision is not None and (is_url or local.is_dir()):
        raise Refused(f"{section}.revision is for hub names only, and {shown} is not one; leave it out")
    if is_url:
        return Located(_fetch_from_storage(name, shown, weights), shown, None)
    if local.is_dir():
        return Located(local, shown, None)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise Refused(
            f"no checkpoint folder {shown}; give a folder, a hub name (org/name) or a URL (s3://bucket/folder)"
        )
    folder = _fetch_from_hub(name, revision, weights, section)
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
    return Located(folder, name, commit)


def model_config(found: Located) -> dict[str, Any]:
    """What `config.json` says. Refused where there is none."""
    if not (found.folder / CONFIG).is_file():
        raise Refused(f"checkpoint {found.name} has no {CONFIG}; it must be a folder in the layout of transformers")
    return _read_json(found.folder / CONFIG)


def digest_of(found: Located) -> str:
    """The checkpoint's digest, after a look at every weight file. Refused where weights are missing or damaged."""
    return _digest(found.folder, _weight_files(found.folder, found.name))


def image_processor_config(folder: Path) -> dict[str, Any]:
    """The image processor's settings of a checkpoint folder, {} when it has none (then the defaults hold)."""
    for file_name in IMAGE_PROCESSOR:
        if (folder / file_name).is_file():
            found = _read_json(folder / file_name)
            # Newer checkpoints keep all their processors in one file.
            found = found.get("image_processor", {}) if file_name == "processor_config.json" else found
            if isinstance(found, dict) and found:
                return found
    return {}


def cache_folder() -> Path:
    """Where checkpoints from object storage are kept: LABELER_CACHE, or `labeler` in the user's cache folder."""
    chosen = os.environ.get("LABELER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "labeler"


# ---- checks


def _check(found: Located, weights: bool) -> Checkpoint:
    architecture = _architecture(found)
    if not any((found.folder / file_name).is_file() for file_name in TOKENIZER[:2]):
        raise Refused(f"checkpoint {found.name} has no tokenizer: it needs a {TOKENIZER[0]} or a {TOKENIZER[1]}")
    image_size = _image_size(image_processor_config(found.folder), found.name)
    digest = digest_of(found) if weights else ""
    return Checkpoint(found.folder, found.name, found.revision, digest, architecture, image_size)


def _architecture(found: Located) -> str:
    config = model_config(found)
    named = config.get("architectures") or [ARCHITECTURES.get(str(config.get("model_type")))]
    if named[0] not in ARCHITECTURES.values():
        what = named[0] or config.get("model_type") or "unknown"
        raise Refused(f"checkpoint {found.name} is a {what}; supported are {' and '.join(ARCHITECTURES.values())}")
    return str(named[0])


def _image_size(config: dict[str, Any], name: str) -> tuple[int, int]:
    size = config.get("size")
    if size is None:
        return DEFAULT_IMAGE_SIZE
    if isinstance(size, int):  # the older form: size and max_size
        return size, int(config.get("max_size") or max(size, DEFAULT_IMAGE_SIZE[1]))
    try:
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except (KeyError, TypeError, ValueError):
        raise Refused(
            f"checkpoint {name}: its image size is {size!r}; needed are a shortest_edge and a longest_edge in pixels"
        ) from None


def _weight_files(folder: Path, name: str) -> list[str]:
    """Names of the weight files that transformers would load, after a look at each one's header and length."""
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
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"cannot read {path}: it should hold a JSON object, and holds a {type(found).__name__}")
    return found


def _digest(folder: Path, weight_files: list[str]) -> str:
    """blake2b-128 over (name, length, bytes) of every file that determines outputs, in order of name."""
    present = [name for name in (CONFIG, *IMAGE_PROCESSOR, *TOKENIZER) if (folder / name).is_file()]
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted([*present, *weight_files]):
        digest.update(f"{name}\0{(folder / name).stat().st_size}\0".encode())
        with (folder / name).open("rb") as file:
            while piece := file.read(_STREAM_BYTES):
                digest.update(piece)
    return digest.hexdigest()


# ---- the hub


def _fetch_from_hub(name: str, revision: str | None, weights: bool, section: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    patterns = [*_METADATA_PATTERNS, *(_WEIGHTS_PATTERNS if weights else ())]
    shown = f"{name} at revision {revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        problem = "asks for its terms to be accepted: accept them on its page, then set HF_TOKEN"
    except errors.RevisionNotFoundError:
        problem = f"has no such revision: check {section}.revision"
    except errors.RepositoryNotFoundError:
        problem = "does not exist, or is private and needs HF_TOKEN (and there is no local folder of that name)"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        problem = "is not in the local cache and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
    except errors.HfHubHTTPError as error:
        problem = f"was refused by the hub: HTTP {error.response.status_code}"
    except (OSError, ValueError) as error:
        problem = f"could not be fetched: {str(error).splitlines()[0]}"
    raise Refused(f"checkpoint {shown} {problem}")


# ---- object storage


def _fetch_from_storage(uri: str, shown: str, weights: bool) -> Path:
    """The folder's files, in a cache folder named after their URI, sizes and ETags: a changed checkpoint is another."""
    try:
        objects = sorted(_wanted_objects(uri, weights), key=lambda found: found.uri)
        if not objects:
            raise Refused(f"no checkpoint at {shown}: the folder has no {CONFIG} and no weights")
        identity = json.dumps([uri, weights, [(found.uri, found.size, found.etag) for found in objects]])
        cached = cache_folder() / "checkpoints" / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        with _locked(cached.with_suffix(".lock")):
            if not cached.is_dir():
                _download(objects, cached)
        return cached
    except StorageError as error:
        raise Refused(f"checkpoint {shown} could not be fetched: {error}") from error
    except OSError as error:
        raise Refused(f"checkpoint {shown} could not be stored under {cache_folder()}: {error}") from error


def _wanted_objects(uri: str, weights: bool) -> Iterator[storage.ObjectInfo]:
    names = (CONFIG, *IMAGE_PROCESSOR, *TOKENIZER)
    for found in storage.list_objects(uri):
        name = storage.basename(found.uri)
        if storage.join(uri, name) != found.uri:
            continue  # a subfolder's file: other formats, training states
        if name in names or (weights and name.endswith((".safetensors", ".safetensors.index.json"))):
            yield found


def _download(objects: list[storage.ObjectInfo], cached: Path) -> None:
    """All or nothing: a folder beside the cache folder is filled and renamed."""
    for left_over in cached.parent.glob(f"{cached.name}*.partial"):  # of a killed process: we hold its lock now
        shutil.rmtree(left_over, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=cached.name, suffix=".partial", dir=cached.parent))
    try:
        for found in objects:
            stream = storage.open_stream(found.uri, size=found.size, etag=found.etag)
            try:
                with (partial / storage.basename(found.uri)).open("wb") as file:
                    while piece := stream.read(_STREAM_BYTES):
                        file.write(piece)
            finally:
                stream.close()
        partial.rename(cached)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; the kernel releases it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
