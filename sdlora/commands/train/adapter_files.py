"""Adapter files that a run writes while it trains: at checkpoints, and of the best step."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sdlora.adapters.file_writing import write_diffusers, write_kohya
from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.adapters.textual_inversion import write_embeddings
from sdlora.commands.train.lora_header import metadata
from sdlora.commands.train.training_run import TrainingRun
from sdlora.evaluation.selection import Rule
from sdlora.export.layouts import write_pipeline
from sdlora.models.families import description_of
from sdlora.runs.best import BestAdapter
from sdlora.runs.run_folder import LORA, PIPELINE


def best_adapter(run: TrainingRun) -> BestAdapter | None:
    """Keeps the chosen adapter in ``lora/``, or the chosen model in ``pipeline/``."""
    evaluation = run.config.evaluation
    if evaluation.select == "none":
        return None
    rule = Rule(evaluation.select, evaluation.max_clip_loss)
    name = LORA if run.has_adapter else PIPELINE
    return BestAdapter(run.folder, rule, lambda folder: _write_best(run, folder), name)


def _write_best(run: TrainingRun, folder: Path) -> None:
    """Write the adapter for diffusers and kohya, or the whole model if all its weights train."""
    if run.has_adapter:
        write_adapter(run, folder, kohya=True)
        return
    with _averaged(run):
        write_pipeline(folder, run.family.pipeline())


def _averaged(run: TrainingRun) -> AbstractContextManager[None]:
    """Put the averaged weights, if any, into the model, inside the block."""
    if run.average is None:
        return nullcontext()
    return run.average.applied(run.module.all_trained_parameters())


def write_adapter(run: TrainingRun, folder: Path, kohya: bool = False) -> None:
    """Write the adapter, averaged if the run averages.

    A run that trains all weights has them only in its checkpoint.
    """
    if not run.has_adapter:
        return
    content: dict[str, Any] = {
        "parts": run.family.parts,
        "names": description_of(run.config.model.family).trainable,
        "metadata": metadata(run),
    }
    word = run.config.lora.new_word.name
    with _averaged(run):
        if word is not None:
            write_embeddings(folder, word=word, **content)
        if run.specs:
            write_diffusers(folder / DIFFUSERS_FILE, **content)
        if run.specs and kohya:
            write_kohya(folder / f"{run.config.export.name}.safetensors", **content)
