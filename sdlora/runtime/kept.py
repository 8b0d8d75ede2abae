"""Things that are dear to make, kept from one run to the next of the same process."""

from collections.abc import Callable
from typing import Any, TypeVar

Thing = TypeVar("Thing")


class Kept:
    """One thing of each kind, so that it does not grow with the number of runs.

    A thing goes with a key, which holds all that it was made from: it is given out again for an
    equal key only, and thrown away for another one.
    """

    def __init__(self) -> None:
        self._things: dict[str, tuple[object, Any]] = {}

    def take(self, kind: str, key: object, make: Callable[[], Thing]) -> Thing:
        """Take out what is kept, or make it; a run that fails does not bring it back.

        Args:
            kind: Of thing.
            key: What it is made from; compared by ``==``.
            make: Called when nothing of this key is there, after the old one was let go.
        """
        before, thing = self._things.pop(kind, (None, None))
        if before is not None and before == key:
            return thing
        del thing  # two base models may not fit into the memory
        return make()

    def put(self, kind: str, key: object, thing: object) -> None:
        """Leave a thing for the next run; ``key`` is not ``None``."""
        self._things[kind] = (key, thing)
