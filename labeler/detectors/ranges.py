"""What is counted while something runs, by named parts; and how an object's methods become such parts for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Ranges:
    """Counts of a meter, by the innermost range that is open meanwhile; so the parts add up to the whole.

    Of one thread only.

    Attributes:
        parts: name -> what the meter counted in it.
    """

    def __init__(
        self, meter: Callable[[], float], *, mark: Callable[[str], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        """
        Args:
            meter: a reading that grows: seconds, or operations.
            mark: makes a context for each range, such as `torch.profiler.record_function`.
        """
        self.parts: dict[str, float] = {}
        self._meter, self._mark = meter, mark
        self._open: list[str] = []
        self._last = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within for `name`, except in ranges opened inside."""
        self._charge()
        self._open.append(name)
        try:
            with self._mark(name):
                yield
        finally:
            self._charge()
            self._open.pop()

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, as a range of that name."""

        def counted(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*args, **options)

        return counted

    def _charge(self) -> None:
        now = self._meter()
        if self._open:
            self.parts[self._open[-1]] = self.parts.get(self._open[-1], 0.0) + now - self._last
        self._last = now


class Within:
    """An object all of whose calls and methods are ranges of one name."""

    def __init__(self, inner: Any, name: str, ranges: Ranges) -> None:
        self._inner, self._name, self._ranges = inner, name, ranges

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._ranges.within(self._name, self._inner)(*args, **options)

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._inner, attribute)
        return self._ranges.within(self._name, value) if callable(value) else value


@contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """One object's attribute is another for a while; its class and other objects stay as they are."""
    own = vars(owner)
    before = (own[attribute],) if attribute in own else ()
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if before:
            setattr(owner, attribute, before[0])
        else:
            delattr(owner, attribute)
