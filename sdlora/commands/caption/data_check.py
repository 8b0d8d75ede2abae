"""The data check of a captioned folder: its config, the length of captions, the sheets."""

import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sdlora.assembly.base_model import model_source
from sdlora.assembly.new_word import tokenizers
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.commands.train.run_pictures import check_data
from sdlora.config.train import TrainConfig
from sdlora.models.known_configs import known_configs
from sdlora.models.tokens import tokenize
from sdlora.runs.run_folder import refuse_check
from sdlora.runtime.places import CONF, from_here
from sdlora.runtime.progress import Progress


def config_of_check(folder: Path, base: str) -> TrainConfig:
    """The config of ``sdlora train check=true`` on a folder, of which faults are listed only.

    Args:
        folder: The pictures.
        base: Name in ``conf/model`` of the model that will be trained.
    """
    register_schemas()
    given = [f"model={base}", "check=true", "data.on_error=skip", "run_dir=."]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", given)
    OmegaConf.update(composed, "data.root", str(folder))
    return to_typed(composed, TrainConfig)


def caption_limit(config: TrainConfig, base: str, progress: Progress) -> Callable[[str], bool]:
    """Whether a caption fits the tokenizer of the model that will be trained.

    Where its files are not on this machine, all fit, which is said.

    Args:
        config: Of the check.
        base: The model's name in ``conf/model``.
        progress: Prints a note.
    """
    source = model_source(config.model)
    folder = known_configs(source)
    if folder is None:
        progress.print(
            f"note: the tokenizer of {source.path} is not on this machine, so captions are not cut "
            f"to its length; it comes with sdlora fetch model={base}"
        )
        return lambda text: True
    found = tokenizers(config.model, config.lora.new_word, folder)
    chunks = config.data.captions.max_chunks
    return lambda text: not tokenize(found, [text], chunks).cut[0].strip()


def check_captions(options: Namespace, config: TrainConfig, base: str, progress: Progress) -> None:
    """Check all pictures of the folder with their captions, and write the sheets.

    Raises:
        DataError: If no picture can be used.
    """
    name = options.folder.resolve().name or "root"
    out = options.sheet or Path("outputs") / "captions" / name
    refuse_check(out)
    progress.print("")
    check_data(config, out, progress)
    words = ["sdlora", "train", f"data.root={from_here(options.folder)}", f"model={base}"]
    words += [f"data.trigger_word={options.trigger_word}"] * (options.trigger_word is not None)
    progress.print(f"Next, train: {shlex.join(words)}")
