"""Preparation of a training run: pictures, model, batches, module, evaluator."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import torch

from sdlora.adapters.spec import LoraSpec
from sdlora.assembly import adapters, base_model, lightning_trainer, scorers
from sdlora.assembly.class_pictures import draw_missing_class_pictures, lacking_class_pictures
from sdlora.assembly.data_source import held_out as held_out_folder
from sdlora.assembly.device import DTYPES
from sdlora.assembly.hashes import base_hashes, init_hashes
from sdlora.assembly.init_from import start_from_file
from sdlora.assembly.new_word import check_new_word, teach
from sdlora.assembly.training_batches import batches_per_epoch, datamodule, training_batches
from sdlora.assembly.validation_prompts import ValidationPrompts, validation_prompts
from sdlora.assembly.validation_set import validation_loss
from sdlora.commands.train.epochs_to_steps import in_steps
from sdlora.commands.train.from_lora import compare_with_recipe
from sdlora.commands.train.kept_plan import as_planned_before, asked
from sdlora.commands.train.model_checks import check_without_weights
from sdlora.commands.train.preflight import Plan, plan
from sdlora.commands.train.reuse import kept_base, kept_scorer, with_kept_pictures
from sdlora.commands.train.run_pictures import (
    data_sheet,
    refuse_findings,
    run_pictures,
    sheets_of_used,
    write_data_sheet,
)
from sdlora.commands.train.step_estimate import idle_parts
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.keys import as_written
from sdlora.config.train import TrainConfig
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet.sheet_output import FILE_NAME, changed_pictures
from sdlora.data.sources.picture_source import PictureSource
from sdlora.evaluation.evaluator import Evaluator
from sdlora.evaluation.scoring import KnownPictures, Scorer
from sdlora.models.family import Family
from sdlora.models.memory import checkpoint_gradients, memory_and_speed
from sdlora.runs.checkpoints import CHECKPOINTS, newest_valid
from sdlora.runs.rewinding import checkpoint_of_step
from sdlora.runs.run_config import read_config, refuse_changes, write_config
from sdlora.runs.run_folder import PROMPTS, refuse_used
from sdlora.runtime import versions
from sdlora.runtime.files import write_text
from sdlora.runtime.kept import Kept
from sdlora.runtime.progress import Progress
from sdlora.training.module import DiffusionModule
from sdlora.training.validation_loss import ValidationLoss


def prepared(
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    kept: Kept,
    trainer: lightning.Trainer,
    overrides: Sequence[str] = (),
) -> TrainingRun:
    """Prepare a run up to its first step.

    With several processes the first alone writes into the folder, and scores.

    Args:
        config: The config of the run.
        folder: The run folder.
        progress: Prints notes and shows bars.
        kept: Objects of the last run of this process, reused if they are the same.
        trainer: Of one device or several.
        overrides: The command line's, for the record of the run.

    Raises:
        ValueError: For any config or data that cannot work.
    """
    is_first, device = trainer.is_global_zero, trainer.strategy.root_device
    given = config
    if config.resume:
        config = as_planned_before(config, folder)
    checkpoint = _checkpoint_to_resume(config, folder, progress)
    if is_first and not config.resume:  # from here on it can be resumed
        write_config(folder, as_written(config), {}, given=overrides)
    notes = check_without_weights(config)
    for line in notes if is_first else ():
        progress.print(line)
    is_settled = config.resume is not None and bool(read_config(folder)[1])
    planned = _planned_class_pictures(config, folder, trainer, progress, is_settled)
    found, held_out = run_pictures(config, folder, progress)
    prompts = validation_prompts(config, found, held_out)
    check_new_word(config, found, prompts.drawn, progress)
    planned = planned or plan(config, found, trainer, progress, is_resumed=is_settled)
    config = in_steps(planned.config, found, progress)
    trainer.fit_loop.epoch_loop.max_steps = config.trainer.max_steps
    trainer.accumulate_grad_batches = config.trainer.accumulate_grad_batches
    held_out = held_out if is_first else None
    of_files = base_hashes(config.model, config.data) | init_hashes(config.lora)
    hashes = {"data": found.fingerprint, **of_files}
    _refuse_changed_content(config, folder, found, hashes, progress)
    sheet = data_sheet(config, found)
    if is_first:
        write_data_sheet(sheet, config.data, folder, progress)
    refuse_findings(config.data, sheet)
    if is_first:
        write_config(folder, as_written(config), hashes, asked(given, config), overrides)
    if is_first and prompts.captions:
        write_text(folder / PROMPTS, "".join(f"{line}\n" for line in prompts.captions))
    scorer = _scorer(config, found, held_out, device, progress, kept) if is_first else Scorer([])
    specs = adapters.lora_specs(config.lora, config.model.family)
    family = _model(config, specs, device, kept, draws=is_first)
    if planned.gradient_checkpointing:
        checkpoint_gradients(family)
    batches, data = training_batches(config, found, family, device, progress)
    cached = [getattr(batches, name, None) is not None for name in ("latents", "embeddings")]
    contact_sheets = sheets_of_used(config, found, data, folder, progress, is_first)
    module = lightning_trainer.module(config, family, batches_per_epoch(batches))
    evaluator = _evaluator(config, data.source, prompts, family, scorer, progress)
    captions, precision = config.data.captions, config.trainer.precision
    validation = validation_loss(captions, precision, module, data, held_out, progress)
    if family.keeps_prompts:
        _encode_prompts(evaluator if is_first else None, module, validation, DTYPES[precision])
    if planned.blocks:
        family.stream_blocks()
    family.place(device, idle_parts(config, family, device, *cached) if planned.offload else ())
    return TrainingRun(
        config=config,
        folder=folder,
        progress=progress,
        trainer=trainer,
        checkpoint=checkpoint,
        hashes=hashes,
        data=data,
        contact_sheets=contact_sheets,
        datamodule=datamodule(config.data, config.trainer, batches),
        family=family,
        specs=specs,
        module=module,
        average=lightning_trainer.average(config.trainer.ema_decay, config.optim.name),
        evaluator=with_kept_pictures(evaluator, config, kept),
        validation=validation,
        cost=planned.cost,
    )


def _checkpoint_to_resume(config: TrainConfig, folder: Path, progress: Progress) -> Path | None:
    """The newest whole checkpoint of a resumed run, or that of the step that is asked for."""
    if not config.resume:
        refuse_used(folder)
        return None
    refuse_changes(folder, as_written(config))
    if config.resume_step is not None:
        return checkpoint_of_step(folder, config.resume_step)
    checkpoint, skipped = newest_valid(folder / CHECKPOINTS)
    for line in skipped:
        progress.print(f"skipped {line}")
    if checkpoint is None:
        progress.print(f"{folder} has no whole checkpoint yet; starting from step 0")
    return checkpoint


def _encode_prompts(
    evaluator: Evaluator | None,
    module: DiffusionModule,
    validation: ValidationLoss | None,
    precision: torch.dtype,
) -> None:
    """Encode all prompts that come again; the model keeps them, and needs no text encoder then."""
    if evaluator is not None:
        evaluator.encode_prompts()
    module.encode_prompts(precision)
    if validation is not None:
        validation.encode_prompts()


def _planned_class_pictures(
    config: TrainConfig,
    folder: Path,
    trainer: lightning.Trainer,
    progress: Progress,
    is_settled: bool,
) -> Plan | None:
    """Draw class pictures that are missing, which can take hours, after the plan is said.

    Returns:
        The plan, made on the pictures without them; ``None`` if none is missing.
    """
    prior = config.data.prior
    if prior.mode != "class" or not lacking_class_pictures(prior, folder):
        return None
    without = replace(config, data=replace(config.data, prior=replace(prior, mode="none")))
    found, _ = run_pictures(without, folder, Progress(quiet=True))  # they are told with all others
    planned = plan(config, found, trainer, progress, is_resumed=is_settled)
    draw_missing_class_pictures(planned.config, folder, progress, blocks=planned.blocks)
    return planned


def _refuse_changed_content(
    config: TrainConfig,
    folder: Path,
    data: PictureSet,
    hashes: Mapping[str, str],
    progress: Progress,
) -> None:
    """Refuse to resume or repeat a run on changed pictures or another base."""
    if config.resume:  # before the sheet is written anew: it tells which pictures changed
        changed = changed_pictures(folder / FILE_NAME, data.source.pictures)
        refuse_changes(folder, as_written(config), hashes, {"data": changed})
    elif config.from_lora:
        compare_with_recipe(config, hashes, versions.versions(), progress)


def _scorer(
    config: TrainConfig,
    data: PictureSet,
    held_out: PictureSet | None,
    device: torch.device,
    progress: Progress,
    kept: Kept,
) -> Scorer:
    """The scorer; its references are the pictures of a folder, else the held-out ones."""

    def make() -> Scorer:
        folder = config.evaluation.references or held_out_folder(config.data, progress)
        references: KnownPictures | None = None
        if folder is not None:
            references = scorers.pictures_in(folder)
        elif held_out is not None and held_out.geometry:
            references = scorers.first_pictures(held_out.source)
        training = scorers.training_pictures(config.evaluation, data.source)
        return scorers.scorer(config.evaluation, references, training, device, progress)

    return kept_scorer(config.evaluation, config.data, data.fingerprint, device, kept, make)


def _model(
    config: TrainConfig,
    specs: Mapping[str, LoraSpec],
    device: torch.device,
    kept: Kept,
    *,
    draws: bool,
) -> Family:
    """The base with its adapters, each part in main memory until it is called.

    Of several processes one draws; ``model.draw_with`` is loaded there alone.
    """
    family = kept_base(config, kept)
    if draws and family.drawing_base is None:
        family.drawing_base = base_model.load_drawing_base(
            config.model, config.trainer.precision, config.seed
        )
    objective = config.objective
    family.change_noise_schedule(objective.prediction_type, objective.zero_terminal_snr)
    family.max_chunks = config.data.captions.max_chunks
    adapters.add_adapters(family, specs, config.seed)
    start_from_file(config.lora.init_from, family)
    teach(family, config.lora.new_word)
    memory_and_speed(config.trainer, device, family)
    trains_text = adapters.trains_text(config.lora, config.model.family)
    family.keep_prompts(bool(family.text_encoders) and not trains_text)
    return family.place(device, [name for name, _ in family.named_children()])


def _evaluator(
    config: TrainConfig,
    source: PictureSource,
    prompts: ValidationPrompts,
    family: Family,
    scorer: Scorer,
    progress: Progress,
) -> Evaluator:
    shown = min(config.sampling.num_preview, len(source.pictures))
    return Evaluator(
        family=family,
        sampling=config.sampling,
        prompts=prompts.drawn,
        prior_prompts=prompts.prior,
        resolution=config.data.resolution,
        precision=DTYPES[config.trainer.precision],
        scorer=scorer,
        progress=progress,
        training_images=[source.image(index) for index in range(shown)],
        scales=config.evaluation.scales,
    )
