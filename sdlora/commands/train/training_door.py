"""``sdlora train``: one run, or the cells of a sweep, from the command line to the scores."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sdlora.cli.command_line import run, to_typed
from sdlora.commands.train.from_lora import with_recipe
from sdlora.commands.train.reuse import Workshop
from sdlora.config.train import TrainConfig
from sdlora.runtime.program import follow, process_rank
from sdlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sdlora.commands.train.job import TrainingJob


def checked(composed: DictConfig) -> TrainConfig:
    """The typed config, after every check that reads neither pictures nor weights."""
    given = HydraConfig.get().overrides.task
    config = to_typed(with_recipe(composed, given), TrainConfig)

    from sdlora.cli import processes
    from sdlora.commands.train import (
        config_checks,  # imports wait: a typo should not take seconds to be seen
    )

    config_checks.check(config)
    processes.check_processes(config)
    return config


def train(
    config: TrainConfig, folder: Path, workshop: Workshop, progress: Progress
) -> "TrainingJob | None":
    """Config -> data -> model -> module -> fit -> export -> scores."""
    from sdlora.assembly import lightning_trainer
    from sdlora.cli import processes
    from sdlora.commands.train import fit as fitting
    from sdlora.commands.train import results, training

    is_first = processes.rank_of(config) == 0
    if config.check:
        if is_first:
            training.check_data(config, folder, progress)
        return None
    trainer = lightning_trainer.trainer(config, folder)
    with processes.together(trainer):
        with processes.in_turn(trainer.strategy):
            job = training.training_job(config, folder, progress, workshop, trainer)
        if job.is_finished:
            steps = config.trainer.max_steps
            progress.print(f"{folder} is finished: all {steps} steps are done and exported; raise")
            progress.print("trainer.max_steps to go on, or start a new run")
            return job
        fitting.fit(job)
    if job.signals.received is not None:
        sys.exit(128 + job.signals.received)
    if is_first:
        files = results.export(job)
        results.summarise(job, files)
    return job


def train_alone(composed: DictConfig, workshop: Workshop, progress: Progress) -> None:
    """Train once, in a folder that no other run uses."""
    config = checked(composed)

    from sdlora.cli import processes
    from sdlora.runs.run_folder import locked

    folder = Path(config.run_dir)
    with locked(folder) if processes.rank_of(config) == 0 else nullcontext():
        train(config, folder, workshop, progress)


def train_cell(composed: DictConfig, workshop: Workshop, progress: Progress) -> None:
    """Train one cell of a sweep, and leave in the workshop what the next one may use."""
    from sdlora.commands.train import keeping
    from sdlora.commands.train.cell import Cell
    from sdlora.evaluation.selection import Rule
    from sdlora.runs.run_folder import locked
    from sdlora.runtime.one_gpu import take_one_gpu

    hydra = HydraConfig.get()
    if "joblib" in hydra.launcher._target_ and composed.trainer.devices == 1:
        take_one_gpu(hydra.job.num)  # other launchers run one process here, or share GPUs out
    rule = Rule(composed.evaluation.select, composed.evaluation.max_clip_loss)
    folder = Path(hydra.runtime.output_dir)
    # the lock comes first: the cell of another process is not this one's to mark
    with locked(folder), Cell(folder, rule, workshop, progress) as cell:
        job = train(checked(composed), folder, workshop, progress)
        if job is not None:
            cell.note(job)
            keeping.take_back(job, workshop)


def main() -> None:
    """Train once, or in this process one cell of a sweep after the other."""
    follow()
    workshop = Workshop()

    def task(composed: DictConfig) -> None:
        is_cell = HydraConfig.get().mode == RunMode.MULTIRUN
        is_first = process_rank(composed.trainer.devices * composed.trainer.num_nodes) == 0
        with Progress(quiet=not is_first) as progress:
            (train_cell if is_cell and is_first else train_alone)(composed, workshop, progress)

    run(task, "train", TrainConfig)
