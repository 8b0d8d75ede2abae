"""The command ``sdlora evaluate``: scores of a run, of LoRA files or of pictures."""

from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sdlora.assembly import needed_weights
from sdlora.cli.command_line import run
from sdlora.cli.composition import to_typed
from sdlora.cli.set_keys import keys_set, written_overrides
from sdlora.commands.evaluate.run_settings import model_of, with_run_settings
from sdlora.config.evaluate import EvaluateConfig
from sdlora.runtime.log_file import write_to_log


def evaluate(composed: DictConfig) -> None:
    """Draw, score and report what the config names."""
    hydra = HydraConfig.get()
    given = written_overrides(hydra.overrides.task)
    composed = with_run_settings(composed, given)
    config = to_typed(composed, EvaluateConfig)

    from sdlora.assembly.without_effect import unused_in_evaluation

    for note in unused_in_evaluation(config, composed, keys_set(given, hydra.runtime.choices)):
        print(f"note: {note}")
        write_to_log(f"note: {note}")
    if config.sweep is not None:
        write_again(Path(config.sweep))
        return

    from sdlora.assembly.device import found_precision  # imports wait: a typo should not take
    from sdlora.commands.evaluate import config_checks  # seconds to be seen

    found = found_precision(config.precision, config.accelerator, config.model.family)
    config = replace(config, precision=found)
    config_checks.check_evaluation(config)
    needs = needed_weights.needed_for_evaluation(config, model_of(config))
    command = ["sdlora", "fetch", "evaluate", *given]
    needed_weights.require_weights(needs, config.evaluation, command)

    from sdlora.commands.evaluate import scoring_run as evaluation
    from sdlora.runtime.progress import Progress

    with Progress() as progress:
        evaluation.evaluate(config, Path(config.run_dir), progress)


def write_again(sweep: Path) -> None:
    """Write the page and the table of a sweep again."""
    from sdlora.reports.sweep_page import write_sweep_report

    print("Written:", *write_sweep_report(sweep))


def main() -> None:
    """Score once, or once for each value of a swept key."""
    run(evaluate, "evaluate", EvaluateConfig)
