"""Objects that are expensive to make, kept from one run of a process to the next."""

from collections.abc import Callable
from typing import Any, TypeVar

Thing = TypeVar("Thing")


class Kept:
    """One object of each kind, so that memory does not grow with the number of runs.

    An object has a key, which holds all that it was made from: it is returned for an equal key
    only, and dropped for a different one.
    """

    def __init__(self) -> None:
        self._things: dict[str, tuple[object, Any]] = {}

    def take(self, kind: str, key: object, make: Callable[[], Thing]) -> Thing:
        """Take out the kept object, or make it; a run that fails does not put it back.

        Args:
            kind: Kind of the object.
            key: Everything that it is made from; compared by ``==``.
            make: Called if no object of this key is kept, after the old one was dropped.
        """
        before, thing = self._things.pop(kind, (None, None))
        if before is not None and before == key:
            return thing
        del thing  # two base models may not fit into the memory
        return make()

    def put(self, kind: str, key: object, thing: object) -> None:
        """Keep an object for the next run; ``key`` is not ``None``."""
        self._things[kind] = (key, thing)
