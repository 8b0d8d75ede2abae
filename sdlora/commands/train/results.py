"""A trained run -> its files, and the table that says what it became."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from sdlora.assembly import base_model
from sdlora.commands.evaluate.scoring_run import print_scores
from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.lora_header import metadata, write_card
from sdlora.data.sheet.verdict import FILE_NAME
from sdlora.evaluation.comparison import gap_closed_by
from sdlora.evaluation.evaluator import Evaluation, score_training
from sdlora.evaluation.scores import Scores
from sdlora.export.layouts import export_lora, export_pipeline
from sdlora.export.proof import prove_export
from sdlora.export.proof_of_words import prove_embeddings
from sdlora.reports.page import FILE_NAME as PAGE
from sdlora.reports.page import write_html_report
from sdlora.runs.best import Best
from sdlora.runs.metrics import METRICS
from sdlora.runs.nearest import write_nearest
from sdlora.runs.report import REPORT, write_report
from sdlora.runs.run_config import flat
from sdlora.runs.run_folder import LORA, PIPELINE
from sdlora.runtime import versions
from sdlora.sweep.cells import swept_values


def export(job: TrainingJob) -> list[Path]:
    """Write the LoRA in every layout and prove each file; or the whole model if all of it trained.

    Raises:
        ExportError: If a file, loaded back, does not give the trained model.
    """
    if not job.has_adapter:
        return [export_pipeline(job.folder / PIPELINE, job.family.pipeline())]
    config, word = job.config, job.config.lora.new_word.name
    job.family.eval()
    trained = job.family.parts
    files = export_lora(
        job.folder / LORA,
        parts=trained,
        metadata=metadata(job),
        name=config.export.name,
        new_word=word,
    )

    def fresh() -> object:
        again = base_model.load(config.model, config.lora, config.trainer.precision, config.seed)
        return again.pipeline()

    with job.progress.working("Proving the export"):
        if word is not None:
            prove_embeddings(files[-1], fresh, trained, word, lambda t: job.family.tokenize(t).ids)
            job.progress.print(f"export proved: diffusers loads the embeddings of {word} exactly")
        if job.specs:
            job.proof = prove_export(job.folder / LORA, fresh, trained)
            worst = max(job.proof.values())
            job.progress.print(
                f"export proved: loaded back in 3 layouts, largest difference {worst:.2g}"
            )
    return files


def summarise(job: TrainingJob, files: list[Path]) -> None:
    """Show base and LoRA side by side, and where everything is."""
    grid = job.folder / "samples" / "last.png"
    last: Evaluation | None = None
    try:
        last = _compare(job, grid)
    except torch.OutOfMemoryError:
        job.progress.print(
            "warning: no memory to draw even one picture, so nothing is scored; score the LoRA on "
            f"another machine: sdlora evaluate run={job.folder}"
        )
    if job.specs:
        files = [*files, *_card(job, last)]
    with job.progress.working("Writing report.html"):
        write_html_report(job.folder)
    job.progress.print("\nWritten:")
    names = (PAGE, METRICS, REPORT, FILE_NAME)
    reports = [job.folder / name for name in names]
    for path in [*files, grid, *reports, *job.contact_sheets]:
        if path.exists():
            job.progress.print(f"  {path}")
    job.progress.print(f"  tensorboard --logdir {job.folder}")


def _card(job: TrainingJob, last: Evaluation | None) -> list[Path]:
    """The model card, with pictures and scores if there are some."""
    scored = {} if last is None else _rows({"base": job.evaluator.draw_base(), "LoRA": last})
    samples = [] if last is None else zip(last.prompts, last.images, strict=True)
    return write_card(
        job.folder / LORA,
        config=job.config,
        metadata=metadata(job),
        specs=job.specs,
        samples=[(prompt.text, image) for prompt, image in samples],
        scores=scored,
    )


def _compare(job: TrainingJob, grid: Path) -> Evaluation:
    """Pictures and scores of base, best and last, for the terminal and the reports; gives last."""
    last = job.evaluate.last or job.evaluator.draw()
    base = job.evaluator.draw_base()
    real = score_training(job.data.source, job.evaluator.scorer, job.progress)
    label = _label(job)
    rows = _rows({"base": base, label: last})
    best = None if job.evaluate.best is None else job.evaluate.best.best
    if rows and best is not None and best.step != job.trainer.global_step:
        rows = {"base": rows["base"], f"best, step {best.step}": best.scores, label: rows[label]}
    job.evaluator.write_pictures(job.folder / "samples" / "base", base)
    job.evaluator.write_pictures(job.folder / "samples" / "last", last)
    job.evaluator.write_grid(grid, last, label)
    print_scores(rows, real, job.progress)
    if rows:
        settings = {
            "config": asdict(job.config),
            "versions": versions.versions(),
            "export_differences": job.proof,
        }
        write_report(job.folder, rows, settings=settings, floor=real)
        write_nearest(job.folder, rows[label], job.evaluator.prompts, job.data.source)
        log_hparams(job, rows, real)
    _say_best(job, best)
    return last


def _label(job: TrainingJob) -> str:
    """What the trained model is called beside the base."""
    return "LoRA" if job.specs else "trained"


def _rows(evaluations: Mapping[str, Evaluation]) -> dict[str, Scores]:
    return {name: item.scores for name, item in evaluations.items() if item.scores is not None}


def _say_best(job: TrainingJob, best: Best | None) -> None:
    """Name the checkpoint to take, or say why there is none."""
    keeper = job.evaluate.best
    if keeper is None:
        return
    if best is None:
        near = (
            f" and a CLIP score within {keeper.rule.max_clip_loss:g} points of the base's "
            "(evaluation.max_clip_loss)"
        )
        has_clip = job.config.evaluation.clip.name != "none"
        job.progress.print(
            f"no best checkpoint: none has a {keeper.rule.score}{near if has_clip else ''}"
        )
        return
    which = "the last" if best.step == job.trainer.global_step else f"step {best.step}"
    job.progress.print(f"best checkpoint: {which}, by {keeper.rule.score}; in {keeper.folder}")


def log_hparams(job: TrainingJob, rows: Mapping[str, Scores], real: Scores | None) -> None:
    """Give TensorBoard the run's row of its HParams table: settings, final and best scores.

    Args:
        job: What ran. Of a cell of a sweep, the swept keys stand for its settings: the others are
            the same in every row.
        rows: Scores of the base and of what was trained.
        real: Scores of the training pictures themselves, for the gap closed.
    """
    last, base = rows[_label(job)], rows["base"]
    metrics = {f"final/{name}": value for name, value in last.values.items()}
    if real is not None:
        metrics["final/gap_closed"] = gap_closed_by(last, base, real)
    if job.evaluate.best is not None:
        best = job.evaluate.best.best
        # TensorBoard takes the columns of all runs from the first one, so no run leaves them out
        chosen = dict.fromkeys(last.values, math.nan) if best is None else best.scores.values
        metrics |= {f"best/{name}": chosen.get(name) for name in last.values}
        metrics["best/step"] = math.nan if best is None else best.step
    known = {name: float(value) for name, value in metrics.items() if value is not None}
    for logger in job.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            told = swept_values(job.folder) or flat(asdict(job.config))
            logger.log_hyperparams(told, known)
            logger.finalize("success")
