"""Scoring what a run made, or any LoRA file: base and LoRA on the same prompts and noise."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import OmegaConf

from sdlora.adapters.formats import apply_lora, read_lora
from sdlora.adapters.lora import merged
from sdlora.build import parts, scorers
from sdlora.build.checks import lora_path
from sdlora.build.sources import file_index, held_out, picture_source
from sdlora.config import EvaluateConfig, ModelConfig
from sdlora.config_data import DataConfig
from sdlora.data.sources import DataError, PictureSource
from sdlora.evaluator import Evaluation, Evaluator
from sdlora.models.sd import StableDiffusion
from sdlora.progress import Progress
from sdlora.report import score_table, write_report_json
from sdlora.run_folder import read_config


def evaluate(config: EvaluateConfig, folder: Path, progress: Progress) -> Path:
    """Draw and score base and LoRA; write pictures, grid and ``report.json``.

    Returns:
        The report.
    """
    path = lora_path(config)
    model, references, source = _of_run(config, progress)
    family = parts.model(model, None, config.precision, seed=0)
    if config.run is not None:
        _as_trained(family, Path(config.run))
    family.to(parts.device(config.accelerator))
    lora = read_lora(path, int(family.unet.config.layers_per_block))
    apply_lora(family.unet, family.text_encoder, lora)
    evaluator = _evaluator(config, family, references, source, progress)

    base = evaluator.draw_base()
    with ExitStack() as stack:
        if config.merge:
            _merge(family, config.lora_scale, stack)
        drawn = evaluator.draw(lora_scale=1.0 if config.merge else config.lora_scale)
    return _write(config, folder, evaluator, {"base": base, "LoRA": drawn}, source, progress)


def _as_trained(family: StableDiffusion, run: Path) -> None:
    """Sample with the LoRA as the run trained it; the bare base keeps its own noise schedule."""
    stored, _ = read_config(run)
    objective = stored["objective"]
    family.change_noise_schedule(
        objective["prediction_type"], objective.get("zero_terminal_snr", False)
    )


def _merge(family: StableDiffusion, scale: float, stack: ExitStack) -> None:
    from sdlora.adapters.lora import lora_parameters, set_scale

    for part in (family.unet, family.text_encoder):
        if lora_parameters(part):
            set_scale(part, scale)
            stack.enter_context(merged(part))


def _write(
    config: EvaluateConfig,
    folder: Path,
    evaluator: Evaluator,
    evaluations: dict[str, Evaluation],
    source: PictureSource | None,
    progress: Progress,
) -> Path:
    real = evaluator.score_training(source) if source else None
    rows = {name: item.scores for name, item in evaluations.items() if item.scores is not None}
    for name, item in evaluations.items():
        evaluator.write_pictures(folder / name.lower(), item)
    evaluator.write_grid(folder / "grid.png", evaluations["LoRA"], "LoRA")
    report = folder / "report.json"
    write_report_json(report, rows, settings={"config": asdict(config)}, floor=real)
    progress.print(score_table(rows, floor=real))
    progress.print(f"\nWritten: {report}, {folder / 'grid.png'} and the pictures beside them")
    return report


def _of_run(
    config: EvaluateConfig, progress: Progress
) -> tuple[ModelConfig, str | None, PictureSource | None]:
    """Base model, references and training pictures: a run's own, else what the config says."""
    if config.run is None:
        return config.model, config.evaluation.references, None
    stored, _ = read_config(Path(config.run))
    model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), stored["model"]))
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), stored["data"]))
    assert isinstance(model, ModelConfig)
    assert isinstance(data, DataConfig)
    source, of_person = None, None
    try:
        of_person = held_out(data, progress)
        with file_index(data) as index:
            source = picture_source(data, index, progress)
    except DataError as error:
        progress.print(f"note: the run's training pictures are not there any more: {error}")
    references = config.evaluation.references or stored["evaluation"]["references"] or of_person
    return replace(model, scratch=[]), references, source


def _evaluator(
    config: EvaluateConfig,
    family: StableDiffusion,
    references: str | None,
    source: PictureSource | None,
    progress: Progress,
) -> Evaluator:
    resolution = config.resolution or family.native_resolution_px
    shown = min(config.sampling.num_preview, len(source.pictures)) if source else 0
    return Evaluator(
        family=family,
        settings=parts.draw_settings(config.sampling, resolution, config.precision),
        scorer=scorers.scorer(config.evaluation, references, source, progress),
        progress=progress,
        training_images=[source.image(index) for index in range(shown)] if source else (),
    )
