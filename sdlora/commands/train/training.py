"""A training run, put together: what it trains on, with which model, and what watches it."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from sdlora.adapters.spec import LoraSpec
from sdlora.assembly import adapters, base_model, lightning_trainer, memory, scorers
from sdlora.assembly.adapters import check_adapters
from sdlora.assembly.class_pictures import draw_missing_class_pictures
from sdlora.assembly.data_source import held_out
from sdlora.assembly.device import DTYPES
from sdlora.assembly.hashes import base_hashes, init_hashes
from sdlora.assembly.init_from import start_from_file
from sdlora.assembly.loss import check_objective
from sdlora.assembly.new_word import check_new_word, teach
from sdlora.assembly.optimizer import rate_notes
from sdlora.assembly.training_batches import batches_per_epoch, datamodule, training_batches
from sdlora.assembly.training_pictures import held_out_pictures, training_pictures
from sdlora.assembly.validation_set import validation_loss
from sdlora.commands.train import keeping
from sdlora.commands.train.adapter_files import best_adapter, write_adapter
from sdlora.commands.train.data_check import (
    data_sheet,
    draw_contact_sheets,
    refuse_findings,
    say_left_out,
    write_data_sheet,
)
from sdlora.commands.train.from_lora import compare_with_recipe
from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.reuse import Workshop
from sdlora.config.train import TrainConfig
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet.verdict import FILE_NAME, changed_pictures
from sdlora.data.sources.picture_source import PictureSource
from sdlora.evaluation.evaluator import Evaluator
from sdlora.evaluation.scoring import KnownPictures, Scorer
from sdlora.models.family import Family
from sdlora.models.source import noise_schedule_config
from sdlora.runs.checkpoints import CHECKPOINTS, newest_valid
from sdlora.runs.run_config import refuse_changes, write_config
from sdlora.runs.run_folder import refuse_used
from sdlora.runtime import versions
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import prior_prompts, prompts_of
from sdlora.sweep.pruning import pruning
from sdlora.training.callbacks.averaging import Average
from sdlora.training.callbacks.drawing import Evaluate
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.callbacks.speed import Throughput
from sdlora.training.callbacks.stopping import StopSignals


def check_data(config: TrainConfig, folder: Path, progress: Progress) -> None:
    """Decode every picture and write the data sheet and contact sheets, without training.

    Raises:
        DataError: Listing all that cannot be trained on.
    """
    base_model.check_training(config)
    data = training_pictures(config.data, config.model, folder, progress, is_check=config.check)
    sheet = write_data_sheet(config, data, folder, progress)
    written = [folder / FILE_NAME, *draw_contact_sheets(data, sheet, folder, progress)]
    progress.print("\nWritten:")
    for path in written:
        progress.print(f"  {path}")
    refuse_findings(config.data, sheet)


def training_job(
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    workshop: Workshop,
    trainer: lightning.Trainer,
) -> TrainingJob:
    """Put a run together: data, model, adapters, cache, module, callbacks.

    What the last run left in the workshop is used where it is the same. Of several processes the
    first alone writes into the folder, and scores.

    Raises:
        ValueError: Whatever cannot work, before the first step.
    """
    checkpoint = _checkpoint_to_resume(config, folder, progress)
    _check_objective(config)
    check_adapters(config)
    is_first, device = trainer.is_global_zero, trainer.strategy.root_device
    data, unseen, hashes = _data(config, folder, progress, is_first)
    make_scorer = partial(Scorer, [])
    if is_first:
        make_scorer = partial(_scorer, config, data, unseen, device, progress)
    scorer = keeping.scorer(config, data, device, workshop, make_scorer)
    specs = adapters.lora_specs(config.lora, config.model.family)
    family = _model(config, specs, workshop)
    family.to(device)
    batches, left = training_batches(config, data, family, device, progress)
    sheet = data_sheet(config, left)
    if left is not data:
        if is_first:
            say_left_out(sheet, data, folder, progress)
        refuse_findings(config.data, sheet)

    for line in rate_notes(config):
        progress.print(line)
    average = lightning_trainer.average(config)
    evaluator = _evaluator(config, left.source, family, scorer, progress)
    keeping.know_base(config, evaluator, workshop)
    job = TrainingJob(
        config=config,
        folder=folder,
        progress=progress,
        data=left,
        contact_sheets=draw_contact_sheets(left, sheet, folder, progress) if is_first else [],
        family=family,
        module=lightning_trainer.module(config, family, batches_per_epoch(batches)),
        datamodule=datamodule(config.data, config.trainer, batches),
        trainer=trainer,
        evaluator=evaluator,
        evaluate=_evaluate(config, folder, evaluator, average),
        signals=StopSignals(),
        average=average,
        specs=specs,
        hashes=hashes,
        checkpoint=checkpoint,
    )
    job.evaluate.best = best_adapter(job)
    job.evaluate.validation = validation_loss(config, job.module, left, unseen, progress)
    trainer.callbacks.extend(_callbacks(job, batches.num_samples))  # type: ignore[attr-defined]
    return job


def _data(
    config: TrainConfig, folder: Path, progress: Progress, is_first: bool
) -> tuple[PictureSet, PictureSet | None, dict[str, str]]:
    """The pictures, those held out (for the first process), hashes of what the run is made from."""
    if config.data.prior.mode == "class":
        draw_missing_class_pictures(config, folder, progress)
    data = training_pictures(config.data, config.model, folder, progress, is_check=config.check)
    unseen = held_out_pictures(config.data, config.model, progress)
    if config.data.val_fraction:
        data, unseen = data.split(config.data.val_fraction)
        progress.print(f"{len(unseen.geometry)} pictures are held out (data.val_fraction)")
    check_new_word(config, data, progress)
    of_files = base_hashes(config.model, config.data) | init_hashes(config.lora)
    hashes = {"data": data.fingerprint, **of_files}
    if config.resume:  # before the sheet is written anew: it tells which pictures changed
        changed = changed_pictures(folder / FILE_NAME, data.source.pictures)
        refuse_changes(folder, asdict(config), hashes, {"data": changed})
    elif config.from_lora:
        compare_with_recipe(config, hashes, versions.versions(), progress)
    if not is_first:
        refuse_findings(config.data, data_sheet(config, data))
        return data, None, hashes
    refuse_findings(config.data, write_data_sheet(config, data, folder, progress))
    write_config(folder, asdict(config), hashes)
    return data, unseen, hashes


def _model(config: TrainConfig, specs: Mapping[str, LoraSpec], workshop: Workshop) -> Family:
    """The base with its adapters."""
    family = keeping.kept_base(config, workshop)
    objective = config.objective
    family.change_noise_schedule(objective.prediction_type, objective.zero_terminal_snr)
    family.max_chunks = config.data.captions.max_chunks
    adapters.add_adapters(family, specs, config.seed)
    start_from_file(config, family)
    teach(family, config.lora.new_word)
    memory.memory_and_speed(config.trainer, family)
    return family


def _evaluate(
    config: TrainConfig,
    folder: Path,
    evaluator: Evaluator,
    average: Average | None,
) -> Evaluate:
    return Evaluate(
        evaluator,
        pictures_every_n_steps=config.sampling.every_n_steps,
        scores_every_n_steps=config.evaluation.every_n_steps,
        folder=folder,
        average=average,
        stop_patience=config.evaluation.stop_patience,
        pruning=pruning(folder),
        base_first="full" in adapters.methods(config),
    )


def _checkpoint_to_resume(config: TrainConfig, folder: Path, progress: Progress) -> Path | None:
    """The newest whole checkpoint, if a run is resumed that may be."""
    base_model.check_training(config)
    if not config.resume:
        refuse_used(folder)
        return None
    refuse_changes(folder, asdict(config))
    checkpoint, skipped = newest_valid(folder / CHECKPOINTS)
    for line in skipped:
        progress.print(f"passed over {line}")
    if checkpoint is None:
        progress.print(f"{folder} has no whole checkpoint yet; starting from step 0")
    return checkpoint


def _check_objective(config: TrainConfig) -> None:
    schedule = noise_schedule_config(base_model.model_source(config.model))
    check_objective(config.objective, schedule, config.data.prior.mode == "teacher")


def _scorer(
    config: TrainConfig,
    data: PictureSet,
    unseen: PictureSet | None,
    device: torch.device,
    progress: Progress,
) -> Scorer:
    """Compares with the pictures of a folder, else with those held out for the validation loss."""
    scorers.warn_of_other_world(
        config.evaluation, base_model.model_source(config.model).path, progress
    )
    folder = config.evaluation.references or held_out(config.data, progress)
    references: KnownPictures | None = None
    if folder is not None:
        references = scorers.pictures_in(folder)
    elif unseen is not None and unseen.geometry:
        references = scorers.first_pictures(unseen.source)
    training = scorers.training_pictures(config.evaluation, data.source)
    return scorers.scorer(config.evaluation, references, training, device, progress)


def _evaluator(
    config: TrainConfig,
    source: PictureSource,
    family: Family,
    scorer: Scorer,
    progress: Progress,
) -> Evaluator:
    shown = min(config.sampling.num_preview, len(source.pictures))
    return Evaluator(
        family=family,
        sampling=config.sampling,
        prompts=prompts_of(config.sampling),
        prior_prompts=prior_prompts(config.sampling, config.evaluation),
        resolution=config.data.resolution,
        precision=DTYPES[config.trainer.precision],
        scorer=scorer,
        progress=progress,
        training_images=[source.image(index) for index in range(shown)],
    )


def _callbacks(job: TrainingJob, num_samples: int) -> list[Callback]:
    """In the order that matters: average, then the wish to stop, then saving, then drawing."""
    config = job.config
    speed = Throughput(
        num_samples,
        job.progress,
        job.folder,
        config.trainer.log_every_n_steps,
    )
    save = Checkpoints(
        job.folder / CHECKPOINTS,
        config.checkpoint.every_n_steps,
        config.checkpoint.keep_last,
        lambda folder: write_adapter(job, folder),
        job.progress.print,
    )
    average: list[Callback] = [job.average] if job.average else []
    return [*average, job.signals, speed, save, job.evaluate]
