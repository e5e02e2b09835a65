"""The tokenizers of SigLIP and of SigLIP 2, read from a checkpoint's folder without torch and without SentencePiece."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

from labeler import plain_json
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.prompts.tokenizer_file import load_tokenizer
from labeler.storage import read_regular

FILES = ("tokenizer.json",)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SiglipTokenizer:
    """Text to the token ids that the text encoder was trained on: the words, an end, and no start.

    SigLIP's texts are in lower case and without punctuation, SigLIP 2's (Gemma's tokenizer) in lower case.

    Attributes:
        digest: blake2b-128, hex, of what it was read from.
        end_id, pad_id: of the specials.
        pads_left: whether padding comes first.
    """

    def __init__(self, backend: Any, settings: dict[str, Any], digest: str, source: str) -> None:
        """Use `load`. `backend`: a tokenizers.Tokenizer; `settings`: of tokenizer_config.json."""
        self._backend, self.digest = backend, digest
        self.is_second = backend.token_to_id("<bos>") is not None
        ends, pads = ("<eos>", "<pad>") if self.is_second else ("</s>", "</s>")
        self.end_id = self._special(settings.get("eos_token"), ends, source)
        self.pad_id = self._special(settings.get("pad_token"), pads, source)
        self.pads_left = settings.get("padding_side") == "left"

    def _special(self, token: Any, default: str, source: str) -> int:
        text = token.get("content") if isinstance(token, dict) else token
        found = self._backend.token_to_id(text if isinstance(text, str) else default)
        if found is None:
            raise Refused(f"{source}: not SigLIP's vocabulary: it has no {text or default}")
        return int(found)

    @staticmethod
    def load(folder: str | Path) -> SiglipTokenizer:
        """Return the tokenizer of a local checkpoint folder: its tokenizer.json, with tokenizer_config.json beside it.

        Raises:
            Refused: if it is missing, or cannot be read as SigLIP's.
        """
        whole = Path(folder) / "tokenizer.json"
        try:
            backend, data = load_tokenizer(whole)
        except FileNotFoundError:
            raise Refused(f"{folder}: no tokenizer.json{_hint(Path(folder))}") from None
        settings, beside = _settings(Path(folder) / "tokenizer_config.json")
        return SiglipTokenizer(backend, settings, digest_of(data + b"\0" + beside), str(whole))

    def spelled(self, text: str) -> str:
        """Return the text as it was spelled in training."""
        lower = text.lower()
        if self.is_second:
            return lower
        return re.sub(r"\s+", " ", lower.translate(_NO_PUNCTUATION)).strip()

    def ids(self, text: str) -> list[int]:
        """Return token ids of `text` and the end."""
        return [*self._backend.encode(self.spelled(text), add_special_tokens=False).ids, self.end_id]


def _settings(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return what tokenizer_config.json says, and its bytes; nothing where there is none."""
    try:
        data = read_regular(path)
        found = plain_json.parse(data)
    except FileNotFoundError:
        return {}, b""
    except (OSError, ValueError) as error:
        raise Refused(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"cannot read {path}: it should hold a JSON object")
    return found, data


def _hint(folder: Path) -> str:
    if not (folder / "spiece.model").is_file():
        return "; is it a checkpoint folder?"
    return ", and spiece.model alone is not read; save the checkpoint's tokenizer as tokenizer.json"
