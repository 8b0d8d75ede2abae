"""Lightning's DistributedDataParallel strategy that a process can leave when another one failed."""

from typing import Any, TypeVar

from lightning.pytorch.strategies import DDPStrategy

T = TypeVar("T")


class LeavableDDP(DDPStrategy):
    """DDP whose barrier and broadcast are of this process alone, once it has left the others.

    After an error the others may be dead, or wait elsewhere: what is still to be done, such as
    saving what all of them have alike, must wait for none of them.
    """

    _has_left = False

    def leave(self) -> None:
        """Wait for no other process from here on."""
        self._has_left = True

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all processes that belong together."""
        if not self._has_left:
            super().barrier(*args, **kwargs)

    def broadcast(self, obj: T, src: int = 0) -> T:
        """What the process ``src`` has, or this one's own."""
        return obj if self._has_left else super().broadcast(obj, src)
