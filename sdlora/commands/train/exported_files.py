"""Exported files of a run: ``last/`` and the chosen ``lora/``, each proved by loading it back."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from sdlora.adapters.formats import read_lora, read_metadata, restore_lora
from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.adapters.textual_inversion import load_embeddings
from sdlora.assembly import base_model
from sdlora.assembly.device import DTYPES
from sdlora.assembly.new_word import embeddings_of
from sdlora.commands.train.lora_header import metadata
from sdlora.commands.train.training_run import TrainingRun
from sdlora.export.layouts import export_lora, export_pipeline
from sdlora.export.lora_files import header
from sdlora.export.proof import prove_export
from sdlora.export.proof_of_words import prove_embeddings
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.runs.best import Best, BestAdapter
from sdlora.runs.run_folder import LAST_STEP, LORA, PIPELINE
from sdlora.runtime.files import whole_folder


def export_last(run: TrainingRun) -> Mapping[str, float]:
    """Write the last step's LoRA in every layout into ``last/``, or the whole model.

    Returns:
        Largest difference of outputs when loaded back, by layout and part.

    Raises:
        ExportError: If a file, loaded back, does not give the trained model.
    """
    folder = run.folder / LAST_STEP
    if not run.has_adapter:
        export_pipeline(folder, run.family.pipeline())
        return {}
    run.family.eval()
    return _write_and_prove(run, folder, metadata(run))


def export_chosen(run: TrainingRun, keeper: BestAdapter | None) -> Mapping[str, float]:
    """Write the chosen LoRA in every layout into ``lora/``; the model has its weights then.

    Where the last step was chosen, or none could be, it is a copy of ``last/``. Of a whole model
    the kept ``pipeline/`` stays as it was written.

    Returns:
        As :func:`export_last`; empty for a copy.

    Raises:
        ExportError: If a file, loaded back, does not give the model of the chosen step.
    """
    chosen = None if keeper is None else keeper.best
    if keeper is not None and chosen is not None and chosen.step != run.trainer.global_step:
        return _export_kept(run, keeper, chosen) if run.has_adapter else {}
    with whole_folder(run.folder / (LORA if run.has_adapter else PIPELINE)) as temporary:
        shutil.copytree(run.folder / LAST_STEP, temporary, dirs_exist_ok=True)
        if keeper is not None and chosen is not None:
            keeper.write_choice(temporary, chosen)
    return {}


def _export_kept(run: TrainingRun, keeper: BestAdapter, chosen: Best) -> Mapping[str, float]:
    """Load the files that were kept at the chosen step, and export them in every layout."""
    kept, parts = keeper.folder, run.family.parts
    entries = metadata(run)
    if run.specs:
        lora = read_lora(kept / DIFFUSERS_FILE)
        restore_lora(parts, lora)
        entries = header(lora.metadata)
    if (embeddings := embeddings_of(kept)) is not None:
        load_embeddings(embeddings, parts, description_of(run.config.model.family).trainable)
        if not run.specs:
            entries = header(read_metadata(embeddings))
    with whole_folder(kept) as temporary:
        differences = _write_and_prove(run, temporary, entries)
        keeper.write_choice(temporary, chosen)
    return differences


def _write_and_prove(
    run: TrainingRun, folder: Path, entries: Mapping[str, str]
) -> Mapping[str, float]:
    """Write the model's adapter and new word into a folder, and load each file back."""
    with run.family.in_main_memory() as family:  # beside the base that the proof loads
        return _proved(run, family, folder, entries)


def _proved(
    run: TrainingRun, family: Family, folder: Path, entries: Mapping[str, str]
) -> Mapping[str, float]:
    config, word = run.config, run.config.lora.new_word.name
    dtype = DTYPES[config.export.dtype]
    trained = family.parts
    names = description_of(config.model.family).trainable
    with run.progress.working("Writing the LoRA"):
        files = export_lora(
            folder,
            parts=trained,
            names=names,
            metadata=entries,
            name=config.export.name,
            new_word=word,
            dtype=dtype,
        )

    precision, seed = config.trainer.precision, config.seed
    needed = {*run.specs, *(description_of(config.model.family).trainable_encoders if word else ())}

    def fresh() -> Family:
        return base_model.load(config.model, config.lora, precision, seed, needed)

    with run.progress.working("Proving the export"):
        if word is not None:
            prove_embeddings(
                files[-1],
                lambda: fresh().pipeline(),
                trained,
                names,
                word,
                lambda texts: run.family.tokenize(texts).ids,
            )
        if not run.specs:
            return {}
        return prove_export(folder, lambda: fresh().pipeline(), trained, dtype)
