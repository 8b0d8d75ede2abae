"""Results of a trained run: exported files, score table, reports."""

import math
import shlex
from collections.abc import Mapping

import torch

from sdlora.assembly import base_model
from sdlora.commands.printed_scores import print_scores, say_not_taken
from sdlora.commands.train.closing_lines import Outcome, closing_lines
from sdlora.commands.train.exported_files import export_chosen, export_last
from sdlora.commands.train.fit import Fitted
from sdlora.commands.train.lora_header import metadata
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.keys import as_written, flat
from sdlora.data.sheet.sheet_output import FILE_NAME as DATA_SHEET
from sdlora.evaluation.comparison import gap_closed_by
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.evaluator import score_training
from sdlora.evaluation.scores import Scores
from sdlora.export.model_card import write_model_card
from sdlora.export.thumbnail import add_thumbnail
from sdlora.reports.page import FILE_NAME as PAGE
from sdlora.runs.best import Best, BestAdapter
from sdlora.runs.finished import write_finished
from sdlora.runs.nearest import write_nearest
from sdlora.runs.report import LORA_ROW, REPORT, WHOLE_ROW, write_report
from sdlora.runs.run_folder import LORA, RunFolderError
from sdlora.runs.samples import (
    BASE,
    LAST,
    SAMPLES,
    read_samples,
    step_name,
    write_grid,
    write_samples,
)
from sdlora.runtime import versions
from sdlora.sweep.cells import swept_values
from sdlora.training.loggers import RunTensorBoard

_FINAL, _BEST = "results_final", "results_best"
"""Groups of the HParams' numbers, after those of the losses in TensorBoard's order."""


def finish(run: TrainingRun, fitted: Fitted) -> None:
    """Export the last and the chosen adapter, compare them with the base, and say which to use."""
    differences, last, tolerating = export_last(run), None, run.progress.tolerating
    with tolerating("pictures and scores"):
        last = _last_pictures(run, fitted)
    of_chosen = export_chosen(run, fitted.best)  # the model has the chosen weights from here on
    differences = {
        name: max(value, of_chosen.get(name, 0.0)) for name, value in differences.items()
    }
    _say_proved(run, differences)
    outcome = Outcome()
    if last is not None:
        with tolerating("pictures and scores"):
            outcome = _compare(run, fitted, last, differences)
    if run.specs:
        with tolerating("thumbnail"):
            _thumbnail(run, fitted)
        with tolerating("model card"):
            _card(run, fitted, outcome)
    with tolerating(PAGE), run.progress.working(f"Writing {PAGE}"):
        fitted.page.write_end()
    if not run.progress.failing:
        write_finished(run.folder, run.trainer.global_step, (REPORT, PAGE))
    run.progress.print("")
    for line in closing_lines(run, fitted.best, outcome):
        run.progress.print(line)
    say_not_taken(run.evaluator.scorer, run.progress)
    _require_whole(run)


def _require_whole(run: TrainingRun) -> None:
    """Raise an error if something is missing from what the run was called for.

    The data sheet is written at the start only: without it the run folder was removed.
    """
    if run.progress.failing:
        listed = "".join(f"\n  {what}: {why}" for what, why in run.progress.failing.items())
        raise RunFolderError(
            f"run_dir={run.folder}: the LoRA is exported, but not everything could be made:{listed}"
        )
    if not (run.folder / DATA_SHEET).exists():
        raise RunFolderError(
            f"run_dir={run.folder}: was removed or emptied while the run trained; what was written "
            f"since is there, such as {LORA}/, but earlier checkpoints, curves and the data sheet "
            "are lost; for all of them start again"
        )


def _last_pictures(run: TrainingRun, fitted: Fitted) -> Evaluation | None:
    """Pictures and scores of the last step, and the base's; ``None``: not enough memory."""
    try:
        run.evaluator.draw_base()
        return fitted.last or run.evaluator.draw()
    except torch.OutOfMemoryError:
        run.progress.print(
            "warning: not enough memory to draw one picture, so nothing is scored; score the LoRA "
            f"on another machine: {shlex.join(['sdlora', 'evaluate', f'run={run.folder}'])}"
        )
        return None


def _say_proved(run: TrainingRun, differences: Mapping[str, float]) -> None:
    if (word := run.config.lora.new_word.name) is not None:
        run.progress.print(f"export proved: diffusers loads the embeddings of {word} exactly")
    if differences:
        layouts = len({name.partition("/")[0] for name in differences})
        run.progress.print(
            f"export proved: loaded back in {layouts} layouts, largest difference "
            f"{max(differences.values()):.2g}"
        )


def _card(run: TrainingRun, fitted: Fitted, outcome: Outcome) -> None:
    """Write the model card of the chosen LoRA, with its pictures and scores if there are any."""
    chosen = _other_choice(run, fitted)
    scored = {"base": outcome.base, LORA_ROW: outcome.chosen}
    write_model_card(
        run.folder / LORA,
        config=run.config,
        base=base_model.model_source(run.config.model).path,
        metadata={**metadata(run), **({} if chosen is None else {"ss_steps": str(chosen.step)})},
        specs=run.specs,
        samples=read_samples(run.folder, _chosen_state(run, fitted)),
        scores={name: scores for name, scores in scored.items() if scores is not None},
    )


def _thumbnail(run: TrainingRun, fitted: Fitted) -> None:
    """Put the first picture of the chosen step into the headers of the chosen LoRA's files."""
    if not run.config.export.thumbnail:
        return
    drawn = read_samples(run.folder, _chosen_state(run, fitted))
    if drawn:
        add_thumbnail(sorted((run.folder / LORA).glob("*.safetensors")), drawn[0][1])
    else:
        run.progress.print("note: export.thumbnail: no picture of the chosen step was drawn")


def _chosen_state(run: TrainingRun, fitted: Fitted) -> str:
    chosen = _other_choice(run, fitted)
    return LAST if chosen is None else step_name(chosen.step)


def _other_choice(run: TrainingRun, fitted: Fitted) -> Best | None:
    """The chosen step, unless it is the last or none was chosen."""
    best = None if fitted.best is None else fitted.best.best
    return None if best is None or best.step == run.trainer.global_step else best


def _compare(
    run: TrainingRun, fitted: Fitted, last: Evaluation, differences: Mapping[str, float]
) -> Outcome:
    """Write pictures and scores of base, chosen and last step, and print the table.

    The row of what the run hands over is that of the chosen step. The last step, where it is
    another, has the last row.
    """
    base, label, other = run.evaluator.draw_base(), _label(run), _other_choice(run, fitted)
    real = score_training(run.data.source, run.evaluator.scorer, run.progress)
    last_title = label if other is None else f"last, step {run.trainer.global_step}"
    write_samples(run.folder, BASE, base, run.evaluator.prompts)
    write_samples(run.folder, LAST, last, run.evaluator.prompts)
    drawn = {"base": base, last_title: last}
    grid = run.folder / SAMPLES / f"{LAST}.png"
    write_grid(grid, drawn, run.config.sampling.num_preview, run.evaluator.training_images)
    strengths = _strengths(run)
    if base.scores is None or last.scores is None:
        print_scores({}, real, run.progress)
        return Outcome()
    chosen = last.scores if other is None else other.scores
    rows = {"base": base.scores}
    rows |= {f"{label} x{scale:g}": scores for scale, scores in strengths.items()}
    rows |= {label: chosen, last_title: last.scores}
    # a screenful: the page has the other strengths and steps
    shown = {"base": base.scores, label: chosen}
    print_scores(shown, real, run.progress, judged_only=True)
    state = LAST if other is None else step_name(other.step)
    pictures = {"base": BASE, label: state, last_title: LAST}
    folders = {name: f"{SAMPLES}/{folder}" for name, folder in pictures.items()}
    settings = {
        "config": as_written(run.config),
        "versions": versions.versions(),
        "export_differences": differences,
    }
    write_report(run.folder, rows, settings=settings, floor=real, pictures=folders)
    write_nearest(run.folder, chosen, run.evaluator.prompts, run.data.source, folders[label])
    log_hparams(run, fitted.best, base=base.scores, last=last.scores, real=real)
    return Outcome(base=base.scores, chosen=chosen, real=real, strengths=strengths)


def _strengths(run: TrainingRun) -> dict[float, Scores]:
    """Scores of the chosen adapter at the strengths of ``evaluation.scales``."""
    try:
        drawn = run.evaluator.draw_scales()
    except torch.OutOfMemoryError:
        run.progress.print("warning: evaluation.scales: not enough memory to draw one picture")
        return {}
    return {scale: item.scores for scale, item in drawn.items() if item.scores is not None}


def _label(run: TrainingRun) -> str:
    """Name of the trained model in tables."""
    return LORA_ROW if run.specs else WHOLE_ROW


def log_hparams(
    run: TrainingRun,
    keeper: BestAdapter | None,
    *,
    base: Scores,
    last: Scores,
    real: Scores | None,
) -> None:
    """Log the run's row of TensorBoard's HParams table: settings, final and best scores.

    Args:
        run: The run. The settings of a cell of a sweep are its swept keys, since the others are the
            same in every row.
        keeper: Keeps the best adapter.
        base: Scores of the base.
        last: Scores of the last step.
        real: Scores of the training pictures, for the gap closed.
    """
    metrics = {f"{_FINAL}/{name}": value for name, value in last.values.items()}
    if real is not None:
        metrics[f"{_FINAL}/gap_closed"] = gap_closed_by(last, base, real)
    if keeper is not None:
        best = keeper.best
        # TensorBoard takes the columns of all runs from the first one, so no run leaves them out
        chosen = dict.fromkeys(last.values, math.nan) if best is None else best.scores.values
        metrics |= {f"{_BEST}/{name}": chosen.get(name) for name in last.values}
        metrics[f"{_BEST}/step"] = math.nan if best is None else best.step
    known = {name: float(value) for name, value in metrics.items() if value is not None}
    for logger in run.trainer.loggers:
        if isinstance(logger, RunTensorBoard):
            settings = swept_values(run.folder) or flat(as_written(run.config))
            logger.log_hyperparams(settings, known)
            logger.finalize("success")
