"""The command ``sdlora fetch``: gets once, with network, what a run needs from elsewhere."""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sdlora.assembly import needed_weights
from sdlora.captioning.captioners import CAPTIONERS, chosen_captioner
from sdlora.cli.arguments import MULTIRUN
from sdlora.cli.command_line import run
from sdlora.cli.composition import to_typed
from sdlora.commands.evaluate.run_settings import model_of, with_run_settings
from sdlora.commands.fetch.fetching import fetch
from sdlora.commands.train.resumed_config import with_stored
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.program import run_task
from sdlora.runtime.progress import Progress

HELP = """usage: sdlora fetch [KEY=VALUE ...]
       sdlora fetch evaluate [KEY=VALUE ...]
       sdlora fetch caption MODEL

Gets what a run needs from elsewhere: the base model, the models of the scorers, the face
detector. Give it the same overrides as sdlora train, or after the word evaluate those of
sdlora evaluate, or after the word caption the --model of sdlora caption. What is there already
is checked and kept; what is damaged is got again.

  sdlora fetch model=sd15 data.root=photos
  sdlora fetch evaluate images=pictures data.root=photos evaluation=photos
  sdlora fetch caption blip

The files lie where runs look for them, in the Hub's cache (HF_HOME chooses it) and in
.deepface (DEEPFACE_HOME chooses its parent); both folders can be copied to a machine without
network. It ends with 2 if something could not be got.
"""

EVALUATE, CAPTION = "evaluate", "caption"

OWN_FOLDER = ("run_dir=", "hydra.run.dir=", "hydra.sweep.dir=")
"""Overrides of where a run writes, which fetching does not."""

NOTHING_WRITTEN = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra.mode=RUN")


def fetch_for_training(composed: DictConfig) -> None:
    """Get what a training run of this config needs."""
    given = HydraConfig.get().overrides.task
    config = to_typed(with_stored(composed, given), TrainConfig)
    with Progress() as progress:
        fetch(needed_weights.needed_for_training(config), progress)


def fetch_for_evaluation(composed: DictConfig) -> None:
    """Get what an evaluation of this config needs."""
    given = HydraConfig.get().overrides.task
    config = to_typed(with_run_settings(composed, given), EvaluateConfig)
    with Progress() as progress:
        fetch(needed_weights.needed_for_evaluation(config, model_of(config)), progress)


def fetch_captioner(words: list[str]) -> None:
    """Get what a captioner needs, named as ``sdlora caption --model`` takes it."""
    if len(words) != 1:
        known = ", ".join(CAPTIONERS)
        raise ConfigError(f"sdlora fetch caption MODEL: give one of {known}, or a Hub id")
    with Progress() as progress:
        fetch(needed_weights.needed_for_captions(chosen_captioner(words[0])), progress)


def main() -> None:
    """Read the command line as that of a run, which is not started."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    if words[:1] == [CAPTION]:
        run_task(lambda: fetch_captioner(words[1:]))
        return
    run_task(lambda: _require_one_run(words))
    is_evaluation = words[:1] == [EVALUATE]
    kept = [word for word in words[is_evaluation:] if not word.startswith(OWN_FOLDER)]
    here = [] if any(word.startswith("resume=") for word in kept) else ["hydra.run.dir=."]
    sys.argv[1:] = [*kept, *here, *NOTHING_WRITTEN]
    if is_evaluation:
        run(fetch_for_evaluation, EVALUATE, EvaluateConfig)
    else:
        run(fetch_for_training, "train", TrainConfig)


def _require_one_run(words: list[str]) -> None:
    if several := [word for word in words if word in MULTIRUN]:
        raise ConfigError(
            f"sdlora fetch: gets what one run needs; leave out {several[0]}, and give each key one "
            "value"
        )
