"""A training job, fitted: from its start or its checkpoint to its end, or until it is stopped."""

import json
from dataclasses import asdict

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.preflight import check_cost
from sdlora.models.offload import Offload
from sdlora.runs.checkpoints import step_of
from sdlora.runs.metrics import forget_metrics_after
from sdlora.training.module import TrainingError


def fit(job: TrainingJob) -> None:
    """Train, from the start or from the checkpoint; afterwards the model has its final weights."""
    step = 0 if job.checkpoint is None else step_of(job.checkpoint)
    if job.trainer.is_global_zero:
        forget_metrics_after(job.folder, step if job.checkpoint else -1)
    if job.checkpoint is not None:
        job.progress.print(f"going on from step {step} of {job.trainer.max_steps}")
    job.evaluate.offload = Offload(check_cost(job), job.trainer.strategy.root_device)
    _log_start(job)
    try:
        job.trainer.fit(
            job.module,
            job.datamodule,
            ckpt_path=None if job.checkpoint is None else str(job.checkpoint),
            weights_only=True,
        )
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"data.batch_size={job.config.data.batch_size}: out of memory at step "
            f"{job.trainer.global_step}; halve it and double trainer.accumulate_grad_batches, or "
            "set trainer.offload=true, trainer.gradient_checkpointing=true, "
            "trainer.precision=bf16 or a smaller data.resolution"
        ) from error
    if job.signals.received is not None:
        job.progress.print(
            f"stopped at step {job.trainer.global_step} of {job.trainer.max_steps} and saved; go "
            f"on with: sdlora train resume={job.folder}"
        )
        return
    if job.evaluate.stop_reason is not None:
        step = job.trainer.global_step
        job.progress.print(f"stopped at step {step}: {job.evaluate.stop_reason}")
    if job.average is not None:
        job.average.settle(job.module.all_trained_parameters())


def _log_start(job: TrainingJob) -> None:
    """Config and pictures, where TensorBoard shows them."""
    text = json.dumps(asdict(job.config), indent=2)
    for logger in job.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", f"```json\n{text}\n```")
            for number, path in enumerate(job.contact_sheets):
                with Image.open(path) as sheet:
                    pixels = np.asarray(sheet.convert("RGB"))
                logger.experiment.add_image("data", pixels, number, dataformats="HWC")
