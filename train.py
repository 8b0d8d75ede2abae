"""Fine-tune Stable Diffusion with LoRA on a folder of captioned pictures; see --help."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sdlora.build.repeat import with_recipe
from sdlora.command_line import run, to_typed
from sdlora.config import TrainConfig


def train(composed: DictConfig) -> None:
    """Config -> data -> model -> module -> fit -> export -> scores."""
    given = HydraConfig.get().overrides.task
    config = to_typed(with_recipe(composed, given), TrainConfig)

    from sdlora.build import checks  # imports wait: a typo should not take seconds to be seen

    checks.check(config)

    from sdlora.build import results, training
    from sdlora.progress import Progress
    from sdlora.run_folder import locked

    with locked(Path(config.run_dir)) as folder, Progress() as progress:
        if config.check:
            training.check_data(config, folder, progress)
            return
        job = training.training_job(config, folder, progress)
        if job.is_finished:
            steps = config.trainer.max_steps
            progress.print(f"{folder} is finished: all {steps} steps are done and exported; raise")
            progress.print("trainer.max_steps to go on, or start a new run")
            return
        training.fit(job)
        if job.signals.received is not None:
            sys.exit(128 + job.signals.received)
        files = results.export(job)
        results.summarise(job, files)


if __name__ == "__main__":
    run(train, "train", TrainConfig)
