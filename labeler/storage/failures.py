"""How storage fails inside: for a moment (tried again), or for good and about one object only."""

from __future__ import annotations

from labeler.errors import StorageError


class Transient(Exception):
    """Worth another try; never leaves this package.

    Attributes:
        advice: what to do when trying again did not help.
        meanwhile: what a person can do while it is tried again; empty if nothing. It is told: see `retries.on_trouble`.
        after_s: how long the server asked to wait before the next try, seconds.
        reason: as of `Unreadable`, which it becomes if trying again does not help; None if it is not about this one
            object.
    """

    def __init__(
        self,
        message: str,
        advice: str = "check the network and the endpoint, then run again",
        *,
        meanwhile: str = "",
        after_s: float = 0.0,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.advice, self.meanwhile, self.after_s, self.reason = advice, meanwhile, after_s, reason


class Unreadable(StorageError):
    """An error of one object, which trying again will not change.

    Attributes:
        reason: short and stable ("missing object", "access denied", ...), fit for a row's `error`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (str(self), self.reason)


class Unconditional(StorageError):
    """Storage refused a conditional write: it has no put-if-absent, or does not take writes of this form at all."""


MISSING = "missing object"
DENIED = "access denied"
ARCHIVED = "archived object"
INVALID = "not a valid address"
UNREACHABLE = "unreachable address"
