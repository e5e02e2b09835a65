"""Read what a checkpoint's tokenizer is made of; files from anywhere, so whatever is wrong with them is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labeler import plain_json
from labeler.errors import Refused
from labeler.output import silent_stderr
from labeler.storage import read_regular


def load_tokenizer(path: Path, make: Callable[[bytes], Any] | None = None) -> tuple[Any, bytes]:
    """Return (a tokenizers.Tokenizer without padding and truncation, the file's bytes).

    Args:
        path: of a tokenizer.json, or of what `make` reads.
        make: makes the tokenizer of the file's bytes.

    Raises:
        FileNotFoundError: there is no such file.
        Refused: it cannot be read as a tokenizer, or not be used as one.
    """
    with _one_line(path, "readable"):
        data = read_regular(path)
        backend = (make or _whole)(data)
    with _one_line(path, "usable"):
        backend.encode("\N{GRINNING FACE}")  # there has to be a token for what it does not know
    backend.no_padding()  # a saved tokenizer.json may carry both, and a cut phrase would go unseen
    backend.no_truncation()
    return backend, data


def _whole(data: bytes) -> Any:
    from tokenizers import Tokenizer

    plain_json.parse(data)
    with silent_stderr():  # Rust prints a panic and its stack before Python sees an exception
        return Tokenizer.from_str(data.decode())


@contextmanager
def _one_line(path: Path, how: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseException as error:  # Rust raises bare Exception for what it cannot parse, and panics beyond it
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Refused(f"{path}: not {how} as a tokenizer: {str(error)[:200]!r}") from None
