"""Which images a person says were reviewed, for formats that cannot tell: `--reviewed all|FILE`."""

from __future__ import annotations

from dataclasses import dataclass, field

from labeler import storage
from labeler.corrections.reviewed import row_key
from labeler.errors import Refused
from labeler.file_names import comparable, last_part

_ALL = "all"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Reviewers:
    """The value of --reviewed.

    Attributes:
        everything: all images of the corrected file.
        names: of these images, in any spelling: whole names, last parts, or ids of rows.
        tells: whether the option was given.
        seen: those of the names that an image of the file has.
    """

    everything: bool = False
    names: frozenset[str] = frozenset()
    seen: set[str] = field(default_factory=set, compare=False)

    @property
    def tells(self) -> bool:
        return self.everything or bool(self.names)

    def has(self, name: str, row: str | None = None) -> bool:
        if self.everything or not self.names:
            return self.everything
        mine = self.names & {comparable(name), comparable(last_part(name)), _same_row(row or "")}
        self.seen.update(mine)
        return bool(mine)

    def problems(self) -> list[str]:
        """Return a line per name that no image of the file has."""
        return [
            f"--reviewed names {name[:80]}, which is not an image of the file"
            for name in sorted(self.names - self.seen)
        ]


def read_reviewers(option: str | None) -> Reviewers:
    """Return what the option says. Raises Refused for a file without names."""
    if option is None:
        return Reviewers()
    if option == _ALL:
        return Reviewers(everything=True)
    shown = storage.redact(option)
    found = storage.head(option)
    if found is None or found.size > _MAX_BYTES:
        raise Refused(f"--reviewed is all, or a file with a name per line; {shown} is not such a file")
    try:
        lines = storage.read_bytes(option).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise Refused(f"--reviewed {shown} is not text") from None
    names = frozenset(_same_row(comparable(line.strip())) for line in lines if line.strip())
    if not names:
        raise Refused(f"--reviewed {shown} names no image")
    return Reviewers(names=names)


def _same_row(text: str) -> str:
    key = row_key(text)
    return f"{key[0]}/{key[1]}" if key else text
