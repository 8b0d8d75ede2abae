"""The command ``sdlora lora run``: export of a run's checkpoint, with proof and model card."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from PIL import Image

from sdlora.adapters.formats import apply_lora, read_lora, remove_lora, restore_lora
from sdlora.adapters.lora_file import LoraFile
from sdlora.assembly import base_model
from sdlora.assembly.adapters import add_adapters, lora_specs
from sdlora.assembly.device import DTYPES
from sdlora.cli.composition import defaults_of_training, to_typed
from sdlora.cli.stored_config import laid_under
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scores import Scores
from sdlora.export.layouts import export_lora
from sdlora.export.lora_files import header
from sdlora.export.model_card import write_model_card
from sdlora.export.proof import expectation, prove_layouts
from sdlora.export.thumbnail import add_thumbnail
from sdlora.models.families import description_of
from sdlora.models.family import Family
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
    config = run_config(options.run, options.licence)
    lora = read_lora(checkpoint_path(str(options.run), options.checkpoint))
    dtype = DTYPES[config.export.dtype]

    family = base_model.load(config.model, None, "fp32", seed=0, needed=lora.parts)

    with Progress() as progress:
        with progress.working("Writing, and loading back"):
            _apply(family, lora, config)
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
                    dtype=dtype,
                )
                expected = expectation(family.parts)
                remove_lora(*family.parts.values())
                differences = prove_layouts(temporary, family.pipeline(), expected, dtype)
                samples = _samples(options.run, options.checkpoint)
                if config.export.thumbnail and samples:
                    add_thumbnail(sorted(temporary.glob("*.safetensors")), samples[0][1])
                write_model_card(
                    temporary,
                    config=config,
                    base=base_model.model_source(config.model).path,
                    metadata=metadata,
                    specs=lora.specs or lora_specs(config.lora, config.model.family),
                    samples=samples,
                    scores=_scores(options.run, options.checkpoint),
                )
        worst = max(differences.values())
        layouts = len({name.partition("/")[0] for name in differences})
        progress.print(
            f"written and proved in {layouts} layouts, largest difference {worst:.2g}: {out}"
        )


def _apply(family: Family, lora: LoraFile, config: TrainConfig) -> None:
    """Put the adapter on the model as it was trained; other types than LoRA by the run's config."""
    if not lora.updates:
        apply_lora(family.parts, lora)
        return
    add_adapters(family, lora_specs(config.lora, config.model.family), seed=0)
    restore_lora(family.parts, lora)


def run_config(run: Path, licence: str | None) -> TrainConfig:
    """The run's config; keys that an older version did not write keep the values of ``conf/``."""
    stored, _ = read_config(run, key="run")
    whole = laid_under(defaults_of_training(), stored, [], f"run={run}")
    config = to_typed(whole, TrainConfig)
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
