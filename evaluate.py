"""Draw the prompts with a LoRA and without it, and score both; see --help."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sdlora.assembly.run_settings import with_run_settings
from sdlora.command_line import run, to_typed
from sdlora.config import EvaluateConfig


def evaluate(composed: DictConfig) -> None:
    """Config -> base and LoRA -> pictures -> scores -> report."""
    given = HydraConfig.get().overrides.task
    config = to_typed(with_run_settings(composed, given), EvaluateConfig)

    if config.sweep_folder is not None:
        write_again(Path(config.sweep_folder))
        return

    from sdlora.assembly import checks  # imports wait: a typo should not take seconds to be seen

    checks.check_evaluation(config)

    from sdlora.assembly import evaluation
    from sdlora.progress import Progress

    with Progress() as progress:
        evaluation.evaluate(config, Path(config.run_dir), progress)


def write_again(sweep: Path) -> None:
    """A sweep's folder -> its page and table, from what its cells hold now."""
    from sdlora.html_report.sweep_page import write_sweep_report

    print("Written:", *write_sweep_report(sweep))


if __name__ == "__main__":
    run(evaluate, "evaluate", EvaluateConfig)
