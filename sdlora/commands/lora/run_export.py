"""The command ``sdlora lora run``: export of a run's checkpoint, with proof and model card."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.assembly import base_model
from sdlora.cli.composition import schema_node, to_typed
from sdlora.cli.stored_config import literal
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scores import Scores
from sdlora.export.layouts import export_lora
from sdlora.export.lora_files import header
from sdlora.export.model_card import write_model_card
from sdlora.export.proof import expectation, prove_layouts
from sdlora.models.families import description_of
from sdlora.runs.adapter_file import CHOSEN, checkpoint_path
from sdlora.runs.adapter_file import LAST as LAST_STEP
from sdlora.runs.best import read_best
from sdlora.runs.report import LORA_ROW, handed_over, read_scores
from sdlora.runs.run_config import read_config
from sdlora.runs.samples import LAST, read_samples, step_name
from sdlora.runtime.files import whole_folder
from sdlora.runtime.progress import Progress


def export_run(options: Namespace) -> None:
    """Export a run's checkpoint as training exports the last one."""
    out = options.out or options.run / f"export_{options.checkpoint}"
    if out.exists() and not options.overwrite:
        raise ConfigError(f"out={out}: exists already; choose another, or use --overwrite")
    config = _config(options.run, options.licence)
    lora = read_lora(checkpoint_path(str(options.run), options.checkpoint))

    family = base_model.load(config.model, None, "fp32", seed=0, needed=lora.parts)

    with Progress() as progress:
        with progress.working("Writing, and loading back"):
            apply_lora(family.parts, lora)
            metadata = header(lora.metadata)
            if config.export.licence is not None:
                metadata["modelspec.license"] = config.export.licence
            with whole_folder(out) as temporary:
                export_lora(
                    temporary,
                    parts=family.parts,
                    names=description_of(config.model.family).trainable,
                    metadata=metadata,
                    name=config.export.name,
                )
                expected = expectation(family.parts)
                remove_lora(*family.parts.values())
                differences = prove_layouts(temporary, family.pipeline(), expected)
                write_model_card(
                    temporary,
                    config=config,
                    base=base_model.model_source(config.model).path,
                    metadata=metadata,
                    specs=lora.specs,
                    samples=_samples(options.run, options.checkpoint),
                    scores=_scores(options.run, options.checkpoint),
                )
        worst = max(differences.values())
        progress.print(f"written and proved in 3 layouts, largest difference {worst:.2g}: {out}")


def _config(run: Path, licence: str | None) -> TrainConfig:
    stored, _ = read_config(run, key="run")
    merged = OmegaConf.merge(schema_node(TrainConfig), literal(stored))
    assert isinstance(merged, DictConfig)
    config = to_typed(merged, TrainConfig)
    if licence is not None:
        config.export = replace(config.export, licence=licence)
    return config


def _samples(run: Path, checkpoint: str) -> list[tuple[str, Image.Image]]:
    """Prompts and pictures of this checkpoint, if they were kept."""
    best = read_best(run) if checkpoint in (CHOSEN, "best") else None
    if best is not None:
        return read_samples(run, step_name(best.step))
    return read_samples(run, step_name(int(checkpoint)) if checkpoint.isdigit() else LAST)


def _scores(run: Path, checkpoint: str) -> dict[str, Scores]:
    """Scores of the base and of this checkpoint; none if the report lacks them."""
    rows, best = read_scores(run), read_best(run)
    if handed_over(rows) is None:
        return {}
    if checkpoint in (CHOSEN, "best") and best is not None:
        return {"base": rows["base"], LORA_ROW: best.scores}
    if checkpoint in (CHOSEN, LAST_STEP):
        return {"base": rows["base"], LORA_ROW: list(rows.values())[-1]}
    return {}
