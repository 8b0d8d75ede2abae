"""A training run: put together, fitted, exported, summed up."""

import json
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from sdlora import __version__
from sdlora.adapters.lora import LoraSpec
from sdlora.adapters.writing import write_diffusers
from sdlora.build import parts, scorers
from sdlora.callbacks import (
    Checkpoints,
    Evaluate,
    ExponentialMovingAverage,
    StopSignals,
    Throughput,
    copy_into,
)
from sdlora.checkpoint import newest_valid, step_of
from sdlora.config import TrainConfig
from sdlora.data.datamodule import CaptionDataModule
from sdlora.data.sources import PictureSource
from sdlora.evaluator import Evaluation, Evaluator
from sdlora.export import export_lora, export_pipeline, prove_export
from sdlora.metrics.scoring import Scorer, Scores
from sdlora.models.sd import StableDiffusion
from sdlora.module import DiffusionModule, TrainingError
from sdlora.progress import Progress
from sdlora.report import forget_metrics_after, gap_closed, score_table, write_report_json
from sdlora.run_folder import flat, refuse_changes, refuse_used, write_config


@dataclass(slots=True)
class TrainingJob:
    """Everything of one run, ready to fit."""

    config: TrainConfig
    folder: Path
    progress: Progress
    source: PictureSource
    family: StableDiffusion
    module: DiffusionModule
    datamodule: CaptionDataModule
    trainer: lightning.Trainer
    evaluator: Evaluator
    evaluate: Evaluate
    signals: StopSignals
    average: ExponentialMovingAverage | None
    specs: dict[str, LoraSpec]
    hashes: dict[str, str]
    checkpoint: Path | None

    @property
    def is_finished(self) -> bool:
        """Whether the run that is resumed had come to its end, export and report included."""
        done = self.checkpoint is not None and step_of(self.checkpoint) >= self.trainer.max_steps
        return done and (self.folder / "report.json").is_file()


def training_job(config: TrainConfig, folder: Path, progress: Progress) -> TrainingJob:
    """Put a run together: data, model, adapters, cache, module, trainer, callbacks.

    Raises:
        ValueError: Whatever cannot work, before the first step.
    """
    if config.resume:
        refuse_changes(folder, asdict(config))
    else:
        refuse_used(folder)
    parts.check_family(config.model)
    checkpoint = _checkpoint_to_resume(config, folder, progress)
    source = parts.source(config.data)
    parts.say_findings(source, progress)
    hashes = {"data": source.fingerprint(), **parts.base_hashes(config.model)}
    if config.resume:
        refuse_changes(folder, asdict(config), hashes)
    write_config(folder, asdict(config), hashes)

    scorer = _scorer(config, source, progress)
    family = parts.model(config.model, config.lora, config.trainer.precision, config.seed)
    parts.check_resolution(config.data.resolution, family)
    specs = parts.lora_specs(config.lora)
    parts.add_adapters(family, specs, config.seed)
    parts.memory_and_speed(config.trainer, family)
    trainer = parts.trainer(config, folder)
    family.to(trainer.strategy.root_device)
    dataset = parts.dataset(config, source, family, trainer.strategy.root_device, progress)
    datamodule = CaptionDataModule(
        dataset,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers if dataset.cache is None else 0,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
    )
    decay = config.trainer.ema_decay
    average = None if decay is None else ExponentialMovingAverage(decay)
    evaluator = _evaluator(config, source, family, scorer, progress)
    job = TrainingJob(
        config=config,
        folder=folder,
        progress=progress,
        source=source,
        family=family,
        module=parts.module(config, family),
        datamodule=datamodule,
        trainer=trainer,
        evaluator=evaluator,
        evaluate=Evaluate(
            evaluator,
            pictures_every_n_steps=config.sampling.every_n_steps,
            scores_every_n_steps=config.evaluation.every_n_steps,
            folder=folder,
            average=average,
        ),
        signals=StopSignals(),
        average=average,
        specs=specs,
        hashes=hashes,
        checkpoint=checkpoint,
    )
    trainer.callbacks.extend(_callbacks(job, dataset.num_pictures))  # type: ignore[attr-defined]
    return job


def fit(job: TrainingJob) -> None:
    """Train, from the start or from the checkpoint; afterwards the model has its final weights."""
    step = 0 if job.checkpoint is None else step_of(job.checkpoint)
    forget_metrics_after(job.folder / "metrics.jsonl", step if job.checkpoint else -1)
    if job.checkpoint is not None:
        job.progress.print(f"going on from step {step} of {job.trainer.max_steps}")
    text = json.dumps(asdict(job.config), indent=2)
    for logger in job.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", f"```json\n{text}\n```")
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
            "set trainer.gradient_checkpointing=true, trainer.precision=bf16 or a smaller "
            "data.resolution"
        ) from error
    if job.signals.received is not None:
        job.progress.print(
            f"stopped at step {job.trainer.global_step} of {job.trainer.max_steps} and saved; go "
            f"on with: python train.py resume={job.folder}"
        )
    elif job.average is not None:
        copy_into(job.module.all_trained_parameters(), job.average.average)


def export(job: TrainingJob) -> list[Path]:
    """Write the LoRA in every layout and prove each file; or the whole model if all of it trained.

    Raises:
        ExportError: If a file, loaded back, does not give the trained model.
    """
    if not job.specs:
        return [export_pipeline(job.folder / "pipeline", job.family.pipeline())]
    config = job.config
    job.family.eval()
    files = export_lora(
        job.folder / "lora",
        unet=job.family.unet,
        text_encoder=job.family.text_encoder,
        metadata=_metadata(job),
        name=config.export.name,
    )

    def fresh() -> object:
        again = parts.model(config.model, config.lora, config.trainer.precision, config.seed)
        return again.pipeline()

    with job.progress.working("Proving the export"):
        differences = prove_export(
            job.folder / "lora", fresh, job.family.unet, job.family.text_encoder
        )
    worst = max(differences.values())
    job.progress.print(f"export proved: loaded back in 3 layouts, largest difference {worst:.2g}")
    return files


def summarise(job: TrainingJob, files: list[Path]) -> None:
    """Show base and LoRA side by side, and where everything is."""
    last = job.evaluate.last or job.evaluator.draw()
    base = job.evaluator.draw_base()
    real = job.evaluator.score_training(job.source)
    rows = _rows({"base": base, "LoRA": last})
    job.evaluator.write_pictures(job.folder / "samples" / "base", base)
    job.evaluator.write_pictures(job.folder / "samples" / "last", last)
    grid = job.folder / "samples" / "last.png"
    job.evaluator.write_grid(grid, last, "LoRA")
    if rows:
        job.progress.print(score_table(rows, floor=real))
        settings = {"config": asdict(job.config), "versions": _versions()}
        write_report_json(job.folder / "report.json", rows, settings=settings, floor=real)
        _log_hparams(job, rows, real)
    job.progress.print("\nWritten:")
    for path in [*files, grid, job.folder / "metrics.jsonl", job.folder / "report.json"]:
        if path.exists():
            job.progress.print(f"  {path}")
    job.progress.print(f"  tensorboard --logdir {job.folder}")


def _checkpoint_to_resume(config: TrainConfig, folder: Path, progress: Progress) -> Path | None:
    if not config.resume:
        return None
    checkpoint, skipped = newest_valid(folder / "checkpoints")
    for line in skipped:
        progress.print(f"passed over {line}")
    if checkpoint is None:
        progress.print(f"{folder} has no whole checkpoint yet; starting from step 0")
    return checkpoint


def _scorer(config: TrainConfig, source: PictureSource, progress: Progress) -> Scorer:
    references = config.evaluation.references or scorers.held_out(config.data.root)
    scorers.warn_of_other_world(config.evaluation, config.model.path, progress)
    return scorers.scorer(config.evaluation, references, source, progress)


def _evaluator(
    config: TrainConfig,
    source: PictureSource,
    family: StableDiffusion,
    scorer: Scorer,
    progress: Progress,
) -> Evaluator:
    shown = min(config.sampling.num_preview, len(source.samples))
    return Evaluator(
        family=family,
        settings=parts.draw_settings(
            config.sampling, config.data.resolution, config.trainer.precision
        ),
        scorer=scorer,
        progress=progress,
        training_images=[source.image(index) for index in range(shown)],
    )


def _callbacks(job: TrainingJob, num_pictures: int) -> list[Callback]:
    """In the order that matters: average, then the wish to stop, then saving, then drawing."""
    config = job.config
    images = (
        config.data.batch_size * config.trainer.accumulate_grad_batches * config.trainer.devices
    )
    speed = Throughput(
        images,
        num_pictures,
        job.progress,
        job.folder / "metrics.jsonl",
        config.trainer.log_every_n_steps,
    )
    save = Checkpoints(
        job.folder / "checkpoints",
        config.checkpoint.every_n_steps,
        config.checkpoint.keep_last,
        lambda folder: _write_adapter(job, folder),
        job.progress.print,
    )
    average: list[Callback] = [job.average] if job.average else []
    return [*average, job.signals, speed, save, job.evaluate]


def _write_adapter(job: TrainingJob, folder: Path) -> None:
    """The adapter as pictures show it, averaged where the run averages.

    A run that trains all weights has them in its checkpoint alone.
    """
    if not job.specs:
        return
    parameters = job.module.all_trained_parameters()
    with job.average.applied(parameters) if job.average else nullcontext():
        write_diffusers(
            folder / "pytorch_lora_weights.safetensors",
            unet=job.family.unet,
            text_encoder=job.family.text_encoder,
            metadata=_metadata(job),
        )


def _rows(evaluations: Mapping[str, Evaluation]) -> dict[str, Scores]:
    return {name: item.scores for name, item in evaluations.items() if item.scores is not None}


def _log_hparams(job: TrainingJob, rows: Mapping[str, Scores], real: Scores | None) -> None:
    last, base = rows["LoRA"], rows["base"]
    floor = None if real is None else real.face_distance
    metrics = {
        "final/face_distance": last.face_distance,
        "final/faceless": last.faceless,
        "final/clip_score": last.clip_score,
        "final/gap_closed": gap_closed(base.face_distance, last.face_distance, floor),
    }
    known = {name: float(value) for name, value in metrics.items() if value is not None}
    for logger in job.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(flat(asdict(job.config)), known)
            logger.finalize("success")


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "diffusers", "transformers", "peft")
    return {"sdlora": __version__, "python": platform.python_version()} | {
        name: version(name) for name in names
    }


def _metadata(job: TrainingJob) -> dict[str, str]:
    """The file's header: what A1111 shows (``ss_*``), and all that is needed to repeat the run."""
    config = job.config
    return {
        "ss_sd_model_name": config.model.path,
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_resolution": f"({config.data.resolution}, {config.data.resolution})",
        "ss_num_train_images": str(len(job.source.samples)),
        "ss_steps": str(job.trainer.global_step),
        "ss_seed": str(config.seed),
        "ss_unet_lr": str(config.optim.unet_lr),
        "ss_text_encoder_lr": str(config.optim.text_encoder_lr),
        "ss_optimizer": config.optim.name,
        "ss_mixed_precision": config.trainer.precision,
        "sdlora.config": json.dumps(asdict(config), sort_keys=True),
        "sdlora.hashes": json.dumps(job.hashes, sort_keys=True),
        "sdlora.versions": json.dumps(_versions(), sort_keys=True),
    }
