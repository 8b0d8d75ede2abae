"""Programs in processes of their own that need no imports: children of one that has them.

A process of Python waits seconds for torch and diffusers. Here a server imports them once, and each
run is a fork of it, with signals, exit code and output of its own.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from tests.places import REPOSITORY

MOST_S = 300.0
"""Seconds in which a script has to end."""


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
    given = {**os.environ, "COLUMNS": "200", **(environment or {})}
    process = _server().Process(target=_train, args=(list(arguments), output, given, hit))
    process.start()
    return process


def run_script(
    script: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``python SCRIPT`` with arguments in the repository's folder, and wait for it.

    Args:
        script: File of the repository, such as ``train.py``.
        arguments: Of the command line.
        environment: The whole of it.

    Raises:
        subprocess.TimeoutExpired: If it does not end; it is killed.
    """
    words = [script, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("out", "err")]
        process = _server().Process(target=_run, args=(words, printed, dict(environment)))
        process.start()
        process.join(MOST_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, MOST_S, *(each.read_bytes() for each in printed))
        out, err = (each.read_text("utf-8") for each in printed)
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _run(words: list[str], printed: Sequence[Path], environment: dict[str, str]) -> None:
    _settle(environment, *printed)
    os.chdir(REPOSITORY)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _settle(environment: Mapping[str, str], out: Path, err: Path) -> None:
    """Give this process its environment, and files that it prints to."""
    os.environ.clear()
    os.environ.update(environment)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(out, flags), 1)
    os.dup2(1 if err == out else os.open(err, flags), 2)
    import torch

    torch.set_num_threads(1)


def _train(arguments: list[str], output: Path, given: dict[str, str], hit: Prepared | None) -> None:
    _settle(given, output, output)
    import train

    if hit is not None:
        hit.prepare()
    sys.argv = ["train.py", *arguments]
    train.main()
