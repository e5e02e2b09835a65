"""Fetch a checkpoint's files from the Hugging Face hub, into the hub's own cache; every failure is one line."""

from __future__ import annotations

from pathlib import Path

from labeler.checkpoints.files import CONFIG, IMAGE_PROCESSOR, TOKENIZER
from labeler.errors import Refused

_METADATA = (CONFIG, *IMAGE_PROCESSOR, "tokenizer*", *TOKENIZER)
_ADVICE = "set HF_HOME to a folder that can be written, and LABELER_CACHE for checkpoints from object storage"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def fetch_from_hub(name: str, revision: str | None, weights: bool, section: str) -> Path:
    """Return the folder of the files in the hub's cache. Refused in one line that may name the config's `section`."""
    from huggingface_hub import errors, snapshot_download

    patterns = [*_METADATA, *(_WEIGHTS if weights else ())]
    shown = f"{name} at revision {revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        problem = "is gated: accept its terms on its Hub page, then set HF_TOKEN"
    except errors.RevisionNotFoundError:
        problem = f"has no such revision: check {section}.revision"
    except errors.RepositoryNotFoundError:
        problem = (
            f"does not exist on the Hugging Face Hub, or is private and needs HF_TOKEN; {_no_folder(name, section)}"
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        problem = (
            "is not in the local cache and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set); "
            f"{_no_folder(name, section)}"
        )
    except errors.HfHubHTTPError as error:
        problem = f"was refused by the hub: HTTP {error.response.status_code}"
    except RuntimeError:  # what pathlib raises where there is no home folder
        problem = f"cannot be kept: this user has no home folder (HOME is not set); {_ADVICE}"
    except PermissionError as error:
        problem = f"cannot be kept: {error}; {_ADVICE}"
    except (OSError, ValueError) as error:
        problem = f"could not be fetched: {str(error).splitlines()[0]}"
    raise Refused(f"checkpoint {shown} {problem}")


def _no_folder(name: str, section: str) -> str:
    """Return what a name means that may be that of a folder, too."""
    key = "model.name" if section == "model" else f"{section}.model"
    return f"if a folder is meant: there is none at {Path(name).absolute()}, set {key} to where it is"
