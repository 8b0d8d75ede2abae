"""What a run writes of its weights while it trains: adapters of checkpoints, and the best one."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sdlora.adapters.file_writing import write_diffusers, write_kohya
from sdlora.adapters.formats import DIFFUSERS_FILE
from sdlora.adapters.textual_inversion import write_embeddings
from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.lora_header import metadata
from sdlora.evaluation.selection import Rule
from sdlora.export.layouts import export_pipeline
from sdlora.runs.best import BestAdapter
from sdlora.runs.run_folder import PIPELINE


def best_adapter(job: TrainingJob) -> BestAdapter | None:
    """Keeps the best adapter (or whole model) in the layouts that people load it in."""
    evaluation = job.config.evaluation
    if evaluation.select == "none":
        return None
    rule = Rule(evaluation.select, evaluation.max_clip_loss)
    return BestAdapter(job.folder, rule, lambda folder: _write_best(job, folder))


def _write_best(job: TrainingJob, folder: Path) -> None:
    """The adapter for every program; or the whole model if all of it trains."""
    if job.has_adapter:
        write_adapter(job, folder, kohya=True)
        return
    with _averaged(job):
        export_pipeline(folder / PIPELINE, job.family.pipeline())


def _averaged(job: TrainingJob) -> AbstractContextManager[None]:
    """The trained weights as pictures show them, inside the block."""
    if job.average is None:
        return nullcontext()
    return job.average.applied(job.module.all_trained_parameters())


def write_adapter(job: TrainingJob, folder: Path, kohya: bool = False) -> None:
    """The adapter as pictures show it, averaged where the run averages.

    A run that trains all weights has them in its checkpoint alone.
    """
    if not job.has_adapter:
        return
    content: dict[str, Any] = {"parts": job.family.parts, "metadata": metadata(job)}
    word = job.config.lora.new_word.name
    with _averaged(job):
        if word is not None:
            write_embeddings(folder, name=word, **content)
        if job.specs:
            write_diffusers(folder / DIFFUSERS_FILE, **content)
        if job.specs and kohya:
            write_kohya(folder / f"{job.config.export.name}.safetensors", **content)
