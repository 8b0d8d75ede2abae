"""The command ``sdlora train``: one run, or the cells of a sweep."""

import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sdlora.assembly import needed_weights
from sdlora.cli.command_line import run
from sdlora.cli.composition import to_typed
from sdlora.cli.set_keys import keys_set, written_overrides
from sdlora.cli.stored_config import given_keys
from sdlora.commands.train.resumed_config import OF_THIS_START, with_stored
from sdlora.config.train import TrainConfig
from sdlora.runtime.kept import Kept
from sdlora.runtime.program import follow, process_rank
from sdlora.runtime.progress import Progress
from sdlora.runtime.signals import ended_by_signals

if TYPE_CHECKING:
    from sdlora.commands.train.training_run import TrainingRun


def checked(composed: DictConfig, progress: Progress) -> TrainConfig:
    """The typed config, after every check that reads neither pictures nor weights.

    Weights from elsewhere that are missing are named last: nobody should fetch them for a config
    that cannot work. Values that can hardly be meant are noted.

    What the machine decides is decided here, once: the run's stored config has its value.
    """
    hydra = HydraConfig.get()
    given = written_overrides(hydra.overrides.task)
    composed = with_stored(composed, given)
    config = to_typed(composed, TrainConfig)

    from sdlora.assembly import unsuited_values
    from sdlora.assembly.without_effect import unused_in_training
    from sdlora.cli import processes
    from sdlora.commands.train import (
        config_checks,  # imports wait: a typo should not take seconds to be seen
        epochs_to_steps,
    )

    config = config_checks.with_found_precision(config)
    config_checks.check(config)
    epochs_to_steps.check_epochs(config)
    needs = needed_weights.needed_for_training(config)
    words = [word for word in given if not word.startswith("check=")]
    needed_weights.require_weights(needs, config.evaluation, ["sdlora", "fetch", *words])
    is_resumed = config.resume is not None
    processes.check_processes(config.trainer, config.run_dir, is_resumed=is_resumed)
    set_by_hand = keys_set(given, hydra.runtime.choices)
    is_sweep = hydra.mode == RunMode.MULTIRUN
    for note in [
        *unused_in_training(config, composed, set_by_hand, is_sweep=is_sweep),
        *unsuited_values.training_notes(config),
    ]:
        progress.print(f"note: {note}")
    return config


def train(
    config: TrainConfig, folder: Path, kept: Kept, progress: Progress
) -> "TrainingRun | None":
    """Check base, adapters and data only; or prepare, fit, export and summarise a run."""
    from sdlora.assembly.lightning_trainer import skips_trained_layers, trainer
    from sdlora.cli import processes
    from sdlora.commands.train import model_checks, preparation, results, run_pictures
    from sdlora.commands.train.fit import fit
    from sdlora.commands.train.learnt import require_learnt
    from sdlora.commands.train.safe_end import say_what_is_safe, told_what_is_safe
    from sdlora.runs.run_folder import refuse_check

    is_first = processes.rank_of(config.trainer) == 0
    overrides = HydraConfig.get().overrides.task
    if config.check:
        if is_first:
            refuse_check(folder)
            for line in model_checks.check_what_is_here(config):
                progress.print(f"note: {line}" if line.startswith("not checked") else line)
            run_pictures.check_data(config, folder, progress)
            given = [
                item for item in overrides if item.partition("=")[0] not in ("check", "run_dir")
            ]
            progress.print(f"Next, train: {shlex.join(['sdlora', 'train', *given])}")
        return None
    skips_layers = skips_trained_layers(config.model, config.lora)
    devices = trainer(config.trainer, config.logger, folder, progress, skips_layers=skips_layers)
    safe = partial(say_what_is_safe, folder, progress)
    with processes.together(devices, config.trainer.timeout_min, safe):
        with told_what_is_safe(folder, progress, OSError), processes.in_turn(devices.strategy):
            run = preparation.prepared(config, folder, progress, kept, devices, list(overrides))
        if run.is_finished:
            length = "max_steps" if config.trainer.max_epochs is None else "max_epochs"
            progress.print(
                f"{folder} is finished: all {run.first_step} steps are done and exported; "
                f"raise trainer.{length} to continue, or start a new run"
            )
            given = [item for item in overrides if given_keys([item])[0] not in OF_THIS_START]
            if given:
                progress.print(
                    f"note: {', '.join(given)}: without effect on a run that is finished; to draw "
                    f"and score it anew: {shlex.join(['sdlora', 'evaluate', f'run={folder}'])}"
                )
            return run
        with told_what_is_safe(folder, progress):
            fitted = fit(run)
    if fitted.signal is not None:
        sys.exit(128 + fitted.signal)
    if is_first:
        with told_what_is_safe(folder, progress):
            results.finish(run, fitted)
        if HydraConfig.get().runtime.choices.get("debug") == "overfit":
            require_learnt(run)
    return run


def train_alone(composed: DictConfig, kept: Kept, progress: Progress) -> None:
    """Train once, in a locked folder."""
    config = checked(composed, progress)

    from sdlora.cli import processes
    from sdlora.runs.run_folder import locked

    folder = Path(config.run_dir)
    with locked(folder) if processes.rank_of(config.trainer) == 0 else nullcontext():
        train(config, folder, kept, progress)


def train_cell(composed: DictConfig, kept: Kept, progress: Progress) -> None:
    """Train one cell of a sweep, and keep what the next one may reuse."""
    from sdlora.commands.train.cell import Cell
    from sdlora.commands.train.reuse import keep
    from sdlora.evaluation.selection import Rule
    from sdlora.runs.run_folder import locked
    from sdlora.runtime.one_gpu import take_one_gpu
    from sdlora.sweep.stopping import is_stopping, told_by_first_process

    hydra = HydraConfig.get()
    if "joblib" in hydra.launcher._target_ and composed.trainer.devices == 1:
        take_one_gpu(hydra.job.num)  # other launchers run one process here, or share GPUs out
    rule = Rule(composed.evaluation.select, composed.evaluation.max_clip_loss)
    folder = Path(hydra.runtime.output_dir)
    # the lock comes first: the cell of another process is not this one's to mark
    with told_by_first_process(), locked(folder):
        if is_stopping(folder.parent):
            return
        with Cell(folder, rule, kept, progress) as cell:
            run = train(checked(composed, progress), folder, kept, progress)
            if run is not None:
                cell.note(run)
                keep(run, kept)


def main() -> None:
    """Train once, or the cells of a sweep one after the other in this process."""
    follow()
    kept = Kept()

    def task(composed: DictConfig) -> None:
        is_cell = HydraConfig.get().mode == RunMode.MULTIRUN
        is_first = process_rank(composed.trainer.devices * composed.trainer.num_nodes) == 0
        with Progress(quiet=not is_first) as progress:
            (train_cell if is_cell and is_first else train_alone)(composed, kept, progress)

    with ended_by_signals():
        run(task, "train", TrainConfig)
