"""The processes of a run on several devices; the first alone writes files."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies import DDPStrategy, Strategy
from omegaconf import OmegaConf
from torch import distributed

from sdlora.cli.written_values import quoted
from sdlora.config.rules import require
from sdlora.config.trainer import TrainerConfig
from sdlora.runtime.program import (
    FOLLOWS,
    TRACEBACK,
    USER_ERROR,
    is_for_users,
    message_of,
    process_rank,
)

CONFIG_DIR = "command-line"
"""Hydra's name for the config source of ``--config-dir``."""

FAILS_WITHIN_S = 10.0
"""Seconds that the first process has to notice a failed one by itself; NCCL never does.

Gloo does at the next exchange, for which it has ``trainer.timeout_min``: it may be drawing.
"""

SEEN_WITHIN_S = 5.0
"""Seconds to wait whether a process whose connection broke has ended."""

ENDS_WITHIN_S = 60.0
"""Seconds that the other processes have to end after training."""


class ProcessError(RuntimeError):
    """Another process of the run failed; the message says which."""


def num_processes(trainer: TrainerConfig) -> int:
    """Number of processes of the run, on all machines."""
    return trainer.devices * trainer.num_nodes


def rank_of(trainer: TrainerConfig) -> int:
    """Rank of this process among those of the run; 0 is the first."""
    return process_rank(num_processes(trainer))


def check_processes(trainer: TrainerConfig, run_dir: str, *, is_resumed: bool) -> None:
    """Check that the devices exist, and that torchrun or Slurm started a process for each.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    count = num_processes(trainer)
    if trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        there = torch.cuda.device_count()
        remedy = (
            f"this machine has {there} GPU(s); use no more of them, and multiply "
            "trainer.accumulate_grad_batches accordingly for the same steps"
        )
        require(trainer.devices <= there, "trainer.devices", trainer.devices, remedy)
    started = int(os.environ.get("WORLD_SIZE", count))
    require(
        started == count,
        "trainer.devices",
        trainer.devices,
        f"times trainer.num_nodes={trainer.num_nodes} is {count}, but {started} processes were "
        "started; give the numbers of torchrun's --nproc-per-node and --nnodes",
    )
    is_started = "WORLD_SIZE" in os.environ or "SLURM_NTASKS" in os.environ
    require(
        trainer.num_nodes == 1 or is_started,
        "trainer.num_nodes",
        trainer.num_nodes,
        "processes on other machines are started by torchrun or srun; see docs/devices.md",
    )
    given = {item.partition("=")[0] for item in HydraConfig.get().overrides.hydra}
    is_named = bool(given & {"hydra.run.dir", "hydra.sweep.dir"}) or is_resumed
    require(
        count == 1 or not is_started or is_named,
        "run_dir",
        run_dir,
        "each process would create a folder of its own; give all of them the same one with "
        "hydra.run.dir=FOLDER",
    )


@contextmanager
def together(
    trainer: lightning.Trainer, timeout_min: float, say_what_is_safe: Callable[[], None]
) -> Iterator[None]:
    """Join the processes of a run in one group, inside the block.

    On one machine the first process starts the others; those of torchrun and Slurm are there. The
    environment is left as it was found, so that another run may follow in the first process.

    Args:
        trainer: Of one device or several.
        timeout_min: Minutes that a process waits for another.
        say_what_is_safe: Is called where this process must be ended from outside its main thread.

    Raises:
        ProcessError: If another process failed, which has said why.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy):
        yield
        return
    found = dict(os.environ)
    cluster = strategy.cluster_environment
    assert cluster is not None
    others = 0 if cluster.creates_processes_externally else trainer.num_devices - 1
    try:
        if others:  # as Lightning's own launcher does; it finds LOCAL_RANK, and starts none
            os.environ |= {
                "MASTER_ADDR": cluster.main_address,
                "MASTER_PORT": str(cluster.main_port),
                "WORLD_SIZE": str(others + 1),
                "NODE_RANK": "0",
                "LOCAL_RANK": "0",
            }
        is_nccl = strategy.root_device.type == "cuda"
        within_s = FAILS_WITHIN_S if is_nccl else 60 * timeout_min
        with Followers(command(), others, within_s, say_what_is_safe):
            strategy.setup_environment()
            yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        _restore(found)


@contextmanager
def in_turn(strategy: Strategy) -> Iterator[None]:
    """Run the block in the first process, then in the others; if one fails, all end.

    So what the first one writes (the cache, the data sheet) is there for the others.

    Raises:
        ProcessError: In the first process, if another failed, which has said why.
        SystemExit: In the others, if another failed.
    """
    is_first = strategy.is_global_zero
    if not is_first and not strategy.broadcast(True):
        sys.exit(USER_ERROR)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if is_first:
        strategy.broadcast(failure is None)
        if failure is not None:  # the others have gone
            raise failure
    all_are_well = strategy.reduce_boolean_decision(failure is None)
    if failure is not None:
        raise failure
    if not all_are_well and is_first:
        raise ProcessError("another process of this run failed before training; see above")
    if not all_are_well:
        sys.exit(USER_ERROR)


def command() -> list[str]:
    """Command line of another process: this run alone in its folder, even in a sweep.

    Lightning's own launcher repeats the command line, with which each process of a sweep would
    begin a sweep of its own (its issue 11300).
    """
    hydra = HydraConfig.get()
    given: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    kept = [item for item in given["hydra"] if item.startswith("hydra.searchpath=")]
    task = given["task"]
    sources = hydra.runtime.config_sources
    folders = [source.path for source in sources if source.provider == CONFIG_DIR]
    if not any(item.startswith("resume=") for item in task):  # which brings these two
        task += [f"hydra.run.dir={quoted(hydra.runtime.output_dir)}", "hydra.mode=RUN"]
    flags = [word for folder in folders for word in ("--config-dir", folder)]
    silent = ["hydra.output_subdir=null", "hydra/job_logging=none"]
    return [sys.executable, "-P", "-m", "sdlora", "train", *flags, *task, *kept, *silent]


class Followers:
    """The processes for a machine's further devices, which end with this one, and end it.

    Their standard input ends with this process, which they watch (``program.follow``); a session
    of their own keeps Ctrl-C from them, as this process tells them when to stop.

    Args:
        command: What each runs.
        count: How many there are.
        fails_within_s: Seconds after which this process is ended, if it has not noticed that one
            of them failed after they had met.
        say_what_is_safe: Is called before that.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        fails_within_s: float,
        say_what_is_safe: Callable[[], None],
    ) -> None:
        self._command = list(command)
        self._count = count
        self._fails_within_s = fails_within_s
        self._say_what_is_safe = say_what_is_safe
        self._is_over = threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        modules = os.pathsep.join(sys.path)  # they run the code that this process runs
        for rank in range(1, self._count + 1):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), FOLLOWS: "1"}
            environment = {**os.environ, **own, "PYTHONPATH": modules}
            environment.pop(TRACEBACK, None)  # set for Hydra's sake, see command_line.run
            process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.PIPE, start_new_session=True
            )
            self._processes.append(process)
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._is_over.set()
        message = None
        if isinstance(error, Exception) and not is_for_users(error):
            message = self._failure()
        for process in self._processes:
            self._end(process, 0.0 if error else ENDS_WITHIN_S)
        if message is not None:
            assert isinstance(error, Exception)
            raise ProcessError(f"{message} (in this one: {message_of(error)})") from error

    def _failure(self) -> str | None:
        """The failed process, if there is one: this process then only saw a broken connection."""
        until = time.monotonic() + SEEN_WITHIN_S
        for rank, process in enumerate(self._processes, start=1):
            try:
                code = process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
            if code != 0:
                return _ended(rank, code)
        return None

    def _end(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        assert process.stdin is not None
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.stdin.close()
            try:
                process.wait(FAILS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdin.close()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """End this process if another one failed and it does not notice."""
        code = process.wait()
        within_s = self._fails_within_s if distributed.is_initialized() else FAILS_WITHIN_S
        if code != 0 and not self._is_over.wait(within_s):
            self._say_what_is_safe()
            print(f"error: {_ended(rank, code)}", file=sys.stderr, flush=True)
            os._exit(USER_ERROR)  # the main thread waits in NCCL, where nothing reaches it


def _ended(rank: int, code: int) -> str:
    return (
        f"trainer.devices: process {rank} of this run ended with exit code {code}, so the others "
        "cannot go on; its message is above"
    )


def _restore(environment: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
