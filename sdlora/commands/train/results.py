"""Results of a trained run: exported files, score table, reports."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from sdlora.assembly import base_model
from sdlora.commands.evaluate.scoring_run import print_scores, say_not_taken
from sdlora.commands.train.fit import Fitted
from sdlora.commands.train.lora_header import metadata
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.keys import as_written
from sdlora.data.sheet.sheet_output import FILE_NAME
from sdlora.evaluation.comparison import gap_closed_by
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.evaluator import score_training
from sdlora.evaluation.scores import Scores
from sdlora.export.layouts import export_lora, export_pipeline
from sdlora.export.model_card import write_model_card
from sdlora.export.proof import prove_export
from sdlora.export.proof_of_words import prove_embeddings
from sdlora.models.families import description_of
from sdlora.reports.page import FILE_NAME as PAGE
from sdlora.reports.page import write_html_report
from sdlora.runs.best import BestAdapter
from sdlora.runs.metrics import METRICS
from sdlora.runs.nearest import write_nearest
from sdlora.runs.report import REPORT, write_report
from sdlora.runs.run_config import flat
from sdlora.runs.run_folder import LORA, PIPELINE
from sdlora.runs.samples import BASE, LAST, SAMPLES, write_grid, write_samples
from sdlora.runtime import versions
from sdlora.sweep.cells import swept_values


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported files of a run.

    Attributes:
        files: All files.
        differences: Largest difference of outputs when loaded back, by layout and part.
    """

    files: Sequence[Path]
    differences: Mapping[str, float] = field(default_factory=dict)


def export(run: TrainingRun) -> Exported:
    """Write the LoRA in every layout and prove each file; or write the whole model.

    Raises:
        ExportError: If a file, loaded back, does not give the trained model.
    """
    if not run.has_adapter:
        return Exported([export_pipeline(run.folder / PIPELINE, run.family.pipeline())])
    config, word = run.config, run.config.lora.new_word.name
    run.family.eval()
    trained = run.family.parts
    names = description_of(config.model.family).trainable
    files = export_lora(
        run.folder / LORA,
        parts=trained,
        names=names,
        metadata=metadata(run),
        name=config.export.name,
        new_word=word,
    )

    def fresh() -> object:
        again = base_model.load(config.model, config.lora, config.trainer.precision, config.seed)
        return again.pipeline()

    with run.progress.working("Proving the export"):
        if word is not None:
            prove_embeddings(
                files[-1], fresh, trained, names, word, lambda t: run.family.tokenize(t).ids
            )
            run.progress.print(f"export proved: diffusers loads the embeddings of {word} exactly")
        if run.specs:
            differences = prove_export(run.folder / LORA, fresh, trained)
            run.progress.print(
                "export proved: loaded back in 3 layouts, largest difference "
                f"{max(differences.values()):.2g}"
            )
            return Exported(files, differences)
    return Exported(files)


def summarise(run: TrainingRun, fitted: Fitted, exported: Exported) -> None:
    """Print base and LoRA side by side, and the paths of all files."""
    grid = run.folder / SAMPLES / f"{LAST}.png"
    last: Evaluation | None = None
    try:
        last = _compare(run, fitted, exported, grid)
    except torch.OutOfMemoryError:
        run.progress.print(
            "warning: not enough memory to draw one picture, so nothing is scored; score the LoRA "
            f"on another machine: sdlora evaluate run={run.folder}"
        )
    files = [*exported.files, *(_card(run, last) if run.specs else ())]
    with run.progress.working("Writing report.html"):
        write_html_report(run.folder)
    run.progress.print("\nWritten:")
    names = (PAGE, METRICS, REPORT, FILE_NAME)
    reports = [run.folder / name for name in names]
    for path in [*files, grid, *reports, *run.contact_sheets]:
        if path.exists():
            run.progress.print(f"  {path}")
    run.progress.print(f"  tensorboard --logdir {run.folder}")
    say_not_taken(run.evaluator.scorer, run.progress)


def _card(run: TrainingRun, last: Evaluation | None) -> list[Path]:
    """Write the model card, with pictures and scores if there are any."""
    scored = {} if last is None else _rows({"base": run.evaluator.draw_base(), "LoRA": last})
    samples = [] if last is None else zip(last.prompts, last.images, strict=True)
    return write_model_card(
        run.folder / LORA,
        config=run.config,
        base=base_model.model_source(run.config.model).path,
        metadata=metadata(run),
        specs=run.specs,
        samples=[(prompt.text, image) for prompt, image in samples],
        scores=scored,
    )


def _compare(run: TrainingRun, fitted: Fitted, exported: Exported, grid: Path) -> Evaluation:
    """Write pictures and scores of base, best and last, and return last."""
    last = fitted.last or run.evaluator.draw()
    base = run.evaluator.draw_base()
    real = score_training(run.data.source, run.evaluator.scorer, run.progress)
    label = _label(run)
    rows = _rows({"base": base, label: last})
    best = None if fitted.best is None else fitted.best.best
    if rows and best is not None and best.step != run.trainer.global_step:
        rows = {"base": rows["base"], f"best, step {best.step}": best.scores, label: rows[label]}
    write_samples(run.folder, BASE, base, run.evaluator.prompts)
    write_samples(run.folder, LAST, last, run.evaluator.prompts)
    drawn = {"base": base, label: last}
    write_grid(grid, drawn, run.config.sampling.num_preview, run.evaluator.training_images)
    print_scores(rows, real, run.progress)
    if rows:
        settings = {
            "config": as_written(run.config),
            "versions": versions.versions(),
            "export_differences": exported.differences,
        }
        write_report(run.folder, rows, settings=settings, floor=real)
        write_nearest(run.folder, rows[label], run.evaluator.prompts, run.data.source)
        log_hparams(run, fitted.best, rows, real)
    _say_best(run, fitted.best)
    return last


def _label(run: TrainingRun) -> str:
    """Name of the trained model in tables."""
    return "LoRA" if run.specs else "trained"


def _rows(evaluations: Mapping[str, Evaluation]) -> dict[str, Scores]:
    return {name: item.scores for name, item in evaluations.items() if item.scores is not None}


def _say_best(run: TrainingRun, keeper: BestAdapter | None) -> None:
    """Print the best checkpoint, or why there is none."""
    if keeper is None:
        return
    best = keeper.best
    if best is None:
        near = (
            f" and a CLIP score within {keeper.rule.max_clip_loss:g} points of the base's "
            "(evaluation.max_clip_loss)"
        )
        has_clip = run.config.evaluation.clip.name != "none"
        run.progress.print(
            f"no best checkpoint: none has a {keeper.rule.score}{near if has_clip else ''}"
        )
        return
    which = "the last" if best.step == run.trainer.global_step else f"step {best.step}"
    run.progress.print(f"best checkpoint: {which}, by {keeper.rule.score}; in {keeper.folder}")


def log_hparams(
    run: TrainingRun,
    keeper: BestAdapter | None,
    rows: Mapping[str, Scores],
    real: Scores | None,
) -> None:
    """Log the run's row of TensorBoard's HParams table: settings, final and best scores.

    Args:
        run: The run. The settings of a cell of a sweep are its swept keys, since the others are the
            same in every row.
        keeper: Keeps the best adapter.
        rows: Scores of the base and of the trained model.
        real: Scores of the training pictures, for the gap closed.
    """
    last, base = rows[_label(run)], rows["base"]
    metrics = {f"final/{name}": value for name, value in last.values.items()}
    if real is not None:
        metrics["final/gap_closed"] = gap_closed_by(last, base, real)
    if keeper is not None:
        best = keeper.best
        # TensorBoard takes the columns of all runs from the first one, so no run leaves them out
        chosen = dict.fromkeys(last.values, math.nan) if best is None else best.scores.values
        metrics |= {f"best/{name}": chosen.get(name) for name in last.values}
        metrics["best/step"] = math.nan if best is None else best.step
    known = {name: float(value) for name, value in metrics.items() if value is not None}
    for logger in run.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            settings = swept_values(run.folder) or flat(as_written(run.config))
            logger.log_hyperparams(settings, known)
            logger.finalize("success")
