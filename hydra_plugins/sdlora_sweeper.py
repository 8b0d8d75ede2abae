"""The Hydra sweeper of grids, which records its cells and runs missing and failed ones.

Hydra finds sweepers in the namespace package ``hydra_plugins`` only.
"""

import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import basic_sweeper
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf


class ResumingSweeper(basic_sweeper.BasicSweeper):
    """Grids, lists, ranges and globs; ``hydra.sweeper.params`` are presets of the command line.

    Its state is on the disk, so the same command continues the same sweep.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Run every cell that is not done.

        Args:
            arguments: The command line's overrides.

        Raises:
            ConfigError: If there are too many cells, or the folder holds another sweep.
        """
        from sdlora.runs.run_folder import locked
        from sdlora.sweep.plan import cells, refuse_other_kind, sweep_name, write_sweep

        assert self.config is not None
        config: Any = OmegaConf.to_object(self.config.sweep)  # its checks run here
        command = whole_command(self.config, arguments)
        note_unused(self.config, arguments, is_search=False)
        swept, shared = self._parsed(command, config.max_jobs)
        planned = cells(swept)
        self.config.sweep.name = config.name or sweep_name(swept, shared)
        folder = Path(self.config.hydra.sweep.dir)

        refuse_other_kind(folder, is_search=False)
        with locked(folder, "sweep.name", "sweep.name=NAME"):
            jobs = jobs_of(folder, planned, shared)
            self.validate_batch_is_legal(jobs)  # a group that is not there stops all, now
            write_sweep(folder, self.config.sweep.name, arguments, swept, shared, planned)
            if not jobs:
                print(f"{folder} is finished: all {len(planned)} cells are done")
                return None
            failed = self._launch(folder, jobs)
        raise_first(failed)
        return None

    def _launch(self, folder: Path, jobs: list[list[str]]) -> list[JobReturn]:
        """Run all jobs, and return failed ones. Launchers of other processes get all at once."""
        assert self.launcher is not None
        failed: list[JobReturn] = []
        number = 0
        size = self.max_batch_size if isinstance(self.launcher, BasicLauncher) else None
        for batch in self.split_overrides_to_chunks(jobs, size):
            results = launched(self.launcher, folder, batch, number)
            failed += [result for result in results if result.status == JobStatus.FAILED]
            number += len(batch)
        return failed

    def _parsed(self, command: Sequence[str], max_jobs: int) -> tuple[list[Any], list[str]]:
        """Swept keys, and the overrides of all cells; the last of equal keys counts."""
        from sdlora.config.rules import ConfigError
        from sdlora.sweep.plan import SweptKey

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides, shared = split(parser, command)
        given: list[tuple[Override, list[str]]] = []
        for item in overrides:
            if not item.is_discrete_sweep():
                raise ConfigError(f"{item.input_line}: a grid takes lists, ranges and globs only")
            texts = list(item.sweep_string_iterator())
            if not texts:
                raise ConfigError(f"{item.input_line}: has no values; give it at least one")
            given.append((item, texts))
        # before each value is parsed, which would take minutes for a million
        refuse_too_many(math.prod(len(texts) for _, texts in given), max_jobs)
        swept: list[SweptKey] = []
        for item, texts in given:
            element = item.get_key_element()
            values = [parser.parse_override(f"{element}={text}").value() for text in texts]
            swept.append(SweptKey(item.key_or_group, element, texts, values))
        return swept, shared


def whole_command(config: Any, arguments: Sequence[str]) -> list[str]:
    """The overrides of ``hydra.sweeper.params``, then those of the command line, which win.

    Raises:
        ConfigError: If the command line names the folder of a single run.
    """
    from sdlora.config.rules import ConfigError

    for item in [*config.hydra.overrides.hydra, *arguments]:
        if item.partition("=")[0] in ("run_dir", "hydra.run.dir"):
            remedy = "a sweep's is sweep.name=NAME in outputs/, or hydra.sweep.dir=FOLDER"
            raise ConfigError(f"{item}: names the folder of one run; {remedy}")
    # as written: an interpolation is each cell's own
    presets: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    return [*(f"{key}={value}" for key, value in (presets["params"] or {}).items()), *arguments]


def note_unused(config: Any, arguments: Sequence[str], *, is_search: bool) -> None:
    """Print a line for each key of the sweep itself that has no effect in it."""
    from sdlora.assembly.without_effect import unused_in_sweep

    keys = [item.partition("=")[0] for item in arguments]
    for note in unused_in_sweep(config, keys, is_search=is_search):
        print(f"note: {note}")


def split(parser: OverridesParser, command: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Swept overrides, and those of all cells; the last of equal keys counts."""
    swept: list[Override] = []
    shared: list[str] = []
    for key, item in {o.key_or_group: o for o in parser.parse_overrides(list(command))}.items():
        if key == "sweep" or key.startswith("sweep."):
            continue  # of the sweep itself, not of its cells
        if item.is_sweep_override():
            swept.append(item)
        else:
            shared.append(str(item.input_line))
    return swept, shared


def refuse_too_many(count: int, max_jobs: int) -> None:
    """Raise an error for more runs than ``sweep.max_jobs`` allows."""
    from sdlora.config.rules import require

    remedy = f"{count} runs are too many; set sweep.max_jobs={count} to start them all"
    require(count <= max_jobs, "sweep.max_jobs", max_jobs, remedy)


def launched(
    launcher: Any, folder: Path, jobs: Sequence[list[str]], first_number: int
) -> Sequence[JobReturn]:
    """Run cells by the launcher; at a signal say how to go on.

    Raises:
        SystemExit: At a signal, when all of them have saved their step.
    """
    from sdlora.sweep.plan import read_planned
    from sdlora.sweep.state import DONE, read_state
    from sdlora.sweep.stopping import passing_on_signals

    kills_cells = "joblib" in type(launcher).__module__
    try:
        with passing_on_signals(folder) if kills_cells else nullcontext():
            results: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=first_number)
            return results
    except SystemExit:
        again = shlex.join(["sdlora", "train", *sys.argv[1:]])
        planned = read_planned(folder)
        states = [read_state(cell) for cell in planned.folders]
        done = sum(state is not None and state.state == DONE for state in states)
        print(f"sweep {folder}: {done} of {planned.num_cells} cells done; go on with: {again}")
        raise


def raise_first(failed: Sequence[JobReturn]) -> None:
    """Raise the error of the first failed cell; each has printed its own error before.

    Hydra's ``return_value`` would print the overrides once more, below all messages.
    """
    for result in failed:
        raise result._return_value


def jobs_of(folder: Path, cells: Sequence[Any], shared: Sequence[str]) -> list[list[str]]:
    """Overrides of each cell that is not done; a killed one resumes from its checkpoint."""
    from sdlora.cli.written_values import quoted
    from sdlora.runs.checkpoints import CHECKPOINTS, steps_on_disk
    from sdlora.sweep.state import DONE, read_state

    jobs = []
    for cell in cells:
        run = folder / cell.folder
        state = read_state(run)
        if state is not None and state.state == DONE:
            continue
        hydra = {"sweep.dir": folder, "sweep.subdir": cell.folder, "mode": "MULTIRUN"}
        job = [*cell.arguments, *shared, *(f"hydra.{k}={quoted(str(v))}" for k, v in hydra.items())]
        if steps_on_disk(run / CHECKPOINTS):
            job += [f"resume={quoted(str(run))}", "hydra.output_subdir=null"]
        jobs.append(job)
    return jobs
