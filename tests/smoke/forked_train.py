"""``train.py`` in processes of its own that need no imports: children of one that has them.

A process of Python waits seconds for torch and diffusers. Here a server imports them once, and each
run is a fork of it, with signals, exit code and output of its own.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol


class Prepared(Protocol):
    """What happens to a run on its way, such as a ``Hit``."""

    def prepare(self) -> None:
        """Be ready, in the run's process."""


IMPORTED = (
    "tests.smoke.hits",
    "sdlora.commands.train.preparation",
    "sdlora.commands.train.fit",
    "sdlora.reports.page",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)


def started(
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    hit: Prepared | None = None,
) -> BaseProcess:
    """Start ``python train.py`` with arguments; its exit code is known after ``join``.

    Args:
        arguments: Of the command line.
        output: File to which it prints.
        environment: Is added to that of the tests.
        hit: What happens to it on its way.
    """
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(list(IMPORTED))
    given = {**os.environ, "COLUMNS": "200", **(environment or {})}
    process = context.Process(target=_train, args=(list(arguments), output, given, hit))
    process.start()
    return process


def _train(arguments: list[str], output: Path, given: dict[str, str], hit: Prepared | None) -> None:
    os.environ.clear()
    os.environ.update(given)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    import torch

    torch.set_num_threads(1)
    import train

    if hit is not None:
        hit.prepare()
    sys.argv = ["train.py", *arguments]
    train.main()
