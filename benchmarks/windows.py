"""Loops that take turns: each in a process of its own, stepping only while it is its turn.

So all of them meet the same noise of the machine, and the memory of each is its own. A loop asks
its windows for leave before each step; the process that measures says which loop goes on.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, set_start_method
from multiprocessing.connection import Connection
from os import devnull
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sdlora.commands.train.duration import synchronize
from sdlora.runtime.program import settle_libraries
from sdlora.training.callbacks.speed import peak_memory_mib

WARM_STEPS = 2
"""Steps before the clock starts, at each turn: other loops have had the caches meanwhile."""

HOST_WAITS = {
    "cuda": ("cudaStreamSynchronize", "cudaEventSynchronize"),
    "cpu": ("aten::_local_scalar_dense",),
}
"""What the profiler calls the moments at which the processor waits for the GPU. On the CPU: numbers
read out of tensors, which would be such moments if the tensors were a GPU's."""

TIME, SYNCS, FLOPS = "time", "syncs", "flops"


@dataclass(frozen=True, slots=True)
class Order:
    """Take so many steps, and watch time, host waits or floating-point operations."""

    num_steps: int
    watch: str = TIME


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen: seconds, peak memory in MiB, and the count of what was watched; of a step."""

    step_s: float
    peak_memory_mib: float
    count: float


class RowError(RuntimeError):
    """A loop that failed; the message is its last line."""


def windows(connection: Connection, device: torch.device) -> Iterator[None]:
    """Leave for one step each, by the orders of another process; it gets what was seen."""
    yield from turns(iter(lambda: _next_order(connection), None), connection.send, device)


def turns(
    orders: Iterable[Order], tell: Callable[[Window], None], device: torch.device
) -> Iterator[None]:
    """Leave for one step each, until the orders end; ask again once the step is done.

    Args:
        orders: Windows to take.
        tell: Gets each window after its last step.
        device: That the steps work on.
    """
    for order in orders:
        for _ in range(WARM_STEPS):
            yield
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        watcher = _WATCHERS[order.watch](device)
        with watcher:
            began = time.perf_counter()
            for _ in range(order.num_steps):
                yield
            synchronize(device)
            seconds = time.perf_counter() - began
        count = watcher.count()
        step_s, each = seconds / order.num_steps, count / order.num_steps
        tell(Window(step_s, peak_memory_mib(device), each))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the others need it while this one waits


def _next_order(connection: Connection) -> Order | None:
    try:
        order: Order | None = connection.recv()
    except EOFError:  # the process that measures is gone
        return None
    return order


class _Clock:
    """Watches nothing: the time is taken in any case."""

    def __init__(self, device: torch.device) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def count(self) -> float:
        return 0.0


class _HostWaits:
    def __init__(self, device: torch.device) -> None:
        self._names = HOST_WAITS[device.type]
        kinds = [ProfilerActivity.CPU]
        if device.type == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=kinds)

    def __enter__(self) -> Self:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)

    def count(self) -> float:
        return sum(e.count for e in self._profile.key_averages() if e.key in self._names)


class _Flops:
    def __init__(self, device: torch.device) -> None:
        self._counter = FlopCounterMode(display=False)

    def __enter__(self) -> Self:
        self._counter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._counter.__exit__(*error)

    def count(self) -> float:
        return float(self._counter.get_total_flops())


_WATCHERS: dict[str, Callable[[torch.device], _Clock | _HostWaits | _Flops]] = {
    TIME: _Clock,
    SYNCS: _HostWaits,
    FLOPS: _Flops,
}

Loop = Callable[..., None]
"""Builds what it needs of its arguments, then steps by the windows that it gets last."""


class Runner:
    """A loop in a process of its own, which waits for orders; ends with the ``with`` block.

    Args:
        loop: A function of a module, for the process is spawned.
        arguments: Of the loop; can be pickled.
        device: That it works on.
    """

    def __init__(self, loop: Loop, arguments: tuple[object, ...], device: str) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, loop, arguments, device))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.terminate()
        with suppress(OSError):  # it may have ended by itself
            self._connection.send(None)
        self._process.join()

    def run(self, order: Order) -> Window:
        """Let it go on for one window.

        Raises:
            RowError: If the loop failed.
        """
        try:
            self._connection.send(order)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RowError(f"its process ended with code {self._process.exitcode}") from error
        if isinstance(answer, str):
            raise RowError(answer)
        assert isinstance(answer, Window)
        return answer


def _run(connection: Connection, loop: Loop, arguments: tuple[object, ...], device: str) -> None:
    with open(devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        settle_libraries()
        # a spawned process would spawn the workers of its data loaders too, which is slow
        set_start_method(get_all_start_methods()[0], force=True)
        try:
            loop(*arguments, windows(connection, torch.device(device)))
        except Exception as error:
            traceback.print_exc()
            connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
