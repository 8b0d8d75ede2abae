"""Fitting of a prepared run: callbacks, the training itself, and why it stopped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from sdlora.assembly.adapters import trains_base
from sdlora.commands.train.adapter_files import best_adapter, write_adapter
from sdlora.commands.train.duration import described_time
from sdlora.commands.train.live_page import LivePage
from sdlora.commands.train.safe_end import how_to_go_on
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.keys import as_written
from sdlora.evaluation.evaluated import Evaluation
from sdlora.runs.best import BestAdapter
from sdlora.runs.checkpoints import CHECKPOINTS
from sdlora.runs.finished import forget_finished
from sdlora.runs.identity import CONFIG
from sdlora.runs.metrics import forget_metrics_after
from sdlora.runs.rewinding import set_aside_after
from sdlora.runs.run_config import keep_record
from sdlora.sweep.pruning import pruning
from sdlora.training.callbacks.drawing import Evaluate
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.callbacks.speed import Throughput
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.loggers import RunTensorBoard, RunWandb
from sdlora.training.module import MemoryUsedUpError


@dataclass(frozen=True, slots=True)
class Fitted:
    """Result of training.

    Attributes:
        signal: Number of the signal that stopped it; ``None``: no signal.
        last: Pictures and scores of the final weights; ``None``: not enough memory.
        best: The best adapter; ``None``: none is kept.
        page: Writes the run's page.
    """

    signal: int | None
    last: Evaluation | None
    best: BestAdapter | None
    page: LivePage


def fit(run: TrainingRun) -> Fitted:
    """Train from the start or the checkpoint; afterwards the model has its final weights.

    Raises:
        TrainingError: If the loss is NaN or infinite, or memory runs out.
    """
    run.progress.failing.clear()  # of the cell before, in a sweep
    if run.trainer.is_global_zero:
        if run.config.resume_step is not None:
            _go_back(run, run.config.resume_step)
        forget_finished(run.folder)
        forget_metrics_after(run.folder, run.first_step if run.checkpoint else -1)
    if run.is_trained:
        run.progress.print(
            f"step {run.first_step} is the last, and its export and report are not whole: they are "
            "made again"
        )
    elif run.checkpoint is not None:
        run.progress.print(f"continuing from step {run.first_step} of {run.trainer.max_steps}")
    if run.cost is not None:
        run.progress.print(described_time(run, run.cost))
    signals = StopSignals()
    evaluate, page = _evaluate(run, signals), LivePage(run)
    _log_start(run)
    # Lightning takes callbacks at construction alone; but its devices are needed to make these
    run.trainer.callbacks.extend([*_callbacks(run, signals, evaluate), page])  # type: ignore[attr-defined]
    try:
        run.trainer.fit(
            run.module,
            run.datamodule,
            ckpt_path=None if run.checkpoint is None else str(run.checkpoint),
            weights_only=True,
        )
    except torch.OutOfMemoryError as error:
        raise MemoryUsedUpError(
            f"data.batch_size={run.config.data.batch_size}: out of memory at step "
            f"{run.trainer.global_step}; add trainer.gradient_checkpointing=true or "
            "trainer.offload=blocks, with which this run can continue, or start a new one with "
            "half of it and twice trainer.accumulate_grad_batches, trainer.precision=bf16 or a "
            "smaller data.resolution"
        ) from error
    _back_on_device(run)
    if run.is_trained:  # Lightning has restored the last step, and begins nothing
        evaluate.catch_up(run.trainer, run.module)
    _say_why_it_stopped(run, signals, evaluate)
    if signals.received is not None and run.trainer.is_global_zero:
        page.write_stopped(f"Signal {signals.received} came at step {run.trainer.global_step}.")
    if run.average is not None and signals.received is None:
        run.average.settle(run.module.all_trained_parameters())
    return Fitted(signals.received, evaluate.last, evaluate.best, page)


def _back_on_device(run: TrainingRun) -> None:
    """Bring the model back to where it computes: Lightning leaves all of it in main memory."""
    device = run.trainer.strategy.root_device
    run.family.place(device, run.family.waiting)
    if device.type != "cpu" and run.average is not None:  # it may ask the optimizer once more
        for optimizer in run.trainer.optimizers:
            optimizer.load_state_dict(optimizer.state_dict())  # to where its parameters are


def _go_back(run: TrainingRun, step: int) -> None:
    """Set aside what the run wrote after the step that it is resumed from."""
    if (aside := set_aside_after(run.folder, step)) is not None:
        run.progress.print(f"what came after step {step} is set aside in {aside}")


def _evaluate(run: TrainingRun, signals: StopSignals) -> Evaluate:
    config = run.config
    return Evaluate(
        run.evaluator,
        pictures_every_n_steps=config.sampling.every_n_steps,
        scores_every_n_steps=config.evaluation.every_n_steps,
        folder=run.folder,
        average=run.average,
        best=best_adapter(run),
        stop_patience=config.evaluation.stop_patience,
        pruning=pruning(run.folder),
        base_first=trains_base(config.lora, config.model.family),
        validation=run.validation,
        signals=signals,
    )


def _callbacks(run: TrainingRun, signals: StopSignals, evaluate: Evaluate) -> list[Callback]:
    """The callbacks in the required order: average, stop signals, saving, drawing."""
    speed = Throughput(
        run.datamodule.dataset.num_samples,
        run.progress,
        run.folder,
        run.config.trainer.log_every_n_steps,
    )
    record = (run.folder / CONFIG).read_bytes() if run.trainer.is_global_zero else b""
    save = Checkpoints(
        run.folder / CHECKPOINTS,
        run.config.checkpoint.every_n_steps,
        run.config.checkpoint.keep_last,
        lambda folder: _write_step(run, folder, record),
        run.progress.print,
    )
    average: list[Callback] = [run.average] if run.average else []
    return [*average, signals, speed, save, evaluate]


def _write_step(run: TrainingRun, folder: Path, record: bytes) -> None:
    """Write the adapter of a step; if the run folder was removed, the run's record, too."""
    if keep_record(run.folder, record):
        run.progress.print(
            f"warning: {run.folder} was removed while the run trains; it is written again from "
            f"step {run.trainer.global_step} on, so that the run can be resumed"
        )
    write_adapter(run, folder)


def _say_why_it_stopped(run: TrainingRun, signals: StopSignals, evaluate: Evaluate) -> None:
    step = run.trainer.global_step
    if signals.received is not None:
        run.progress.print(
            f"stopped at step {step} of {run.trainer.max_steps} and saved; continue with: "
            f"{how_to_go_on(run.folder)}"
        )
    elif evaluate.stop_reason is not None:
        run.progress.print(f"stopped at step {step}: {evaluate.stop_reason}")


def _log_start(run: TrainingRun) -> None:
    """Log the config, and contact sheets to TensorBoard."""
    text = json.dumps(as_written(run.config), indent=2)
    for logger in run.trainer.loggers:
        if isinstance(logger, RunTensorBoard):
            logger.tolerant(_log_text_and_sheets, logger, text, run.contact_sheets)
        elif isinstance(logger, RunWandb):
            logger.log_hyperparams(as_written(run.config))


def _log_text_and_sheets(logger: RunTensorBoard, text: str, sheets: Sequence[Path]) -> None:
    logger.experiment.add_text("config", f"```json\n{text}\n```")
    for number, path in enumerate(sheets):
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        logger.experiment.add_image("data", pixels, number, dataformats="HWC")
