"""Repeating the run of a LoRA file's header (``from_lora=FILE``)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sdlora.cli.stored_config import given_keys, laid_under, taken_groups
from sdlora.config.keys import as_written, flat
from sdlora.config.rules import ConfigError
from sdlora.config.sampling import CAPTIONS
from sdlora.config.train import TrainConfig
from sdlora.runs.origin import ORIGIN, refuse_strange
from sdlora.runs.run_config import differences
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress

OF_THIS_RUN = ("from_lora", "resume", "resume_step", "check", "run_dir", "sweep")
"""Keys of the run itself, which are not part of its recipe."""

SAME_CONTENT = ("data.num_workers", "data.cache")
"""Keys of ``data`` that do not change the training pictures."""


def read_recipe(path: Path) -> dict[str, Any]:
    """``config``, ``hashes``, ``versions`` and ``origin`` of a run from a LoRA file's header.

    Args:
        path: A LoRA file or folder of this project, in any layout.

    Raises:
        ConfigError: If it is no LoRA, or from another trainer.
    """
    from sdlora.adapters.formats import read_metadata  # brings diffusers, which is slow

    try:
        header = read_metadata(path)
    except ValueError as error:
        raise ConfigError(f"from_lora={path}: {error}") from error
    if "sdlora.config" not in header:
        raise ConfigError(
            f"from_lora={path}: its header holds no sdlora config, so it was not trained by this "
            f"project, or its header is lost; lora.init_from={path} starts from its weights"
        )
    try:
        names = ("config", "hashes", "versions")
        found = {name: json.loads(header.get(f"sdlora.{name}", "{}")) for name in names}
        return {**found, ORIGIN: header.get(f"sdlora.{ORIGIN}")}
    except json.JSONDecodeError as error:
        raise ConfigError(f"from_lora={path}: its sdlora config is damaged ({error})") from error


def with_recipe(composed: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """The config of ``from_lora``'s header, with the overrides of the command line over it.

    A group on the command line (``optimizer=prodigy``) replaces the header's whole group; keys that
    an older header lacks keep the values of ``conf/``. Another ``lora.r`` keeps the header's
    strength alpha / r, unless ``lora.alpha`` is given.

    Args:
        composed: The config as composed without the header.
        arguments: The command line's overrides.

    Raises:
        ConfigError: If the file has no config, unknown keys, or paths that do not exist here.
    """
    if composed.from_lora is None:
        return composed
    file = composed.from_lora
    recipe = read_recipe(Path(file))
    stored = {k: v for k, v in recipe["config"].items() if k not in OF_THIS_RUN}
    made = recipe["versions"].get("sdlora", "another version")
    given = given_keys(arguments)
    refuse_strange(stored, recipe[ORIGIN], given, f"from_lora={file}")
    laid_under(composed, stored, arguments, f"from_lora={file}", made)
    taken = taken_groups(given)
    is_other_rank = "lora.r" in given and "lora" not in taken and "lora" in stored
    if is_other_rank and "lora.alpha" not in given and isinstance(composed.lora.r, int):
        strength = stored["lora"]["alpha"] / stored["lora"]["r"]
        composed.lora.alpha = strength * composed.lora.r  # as alpha follows r elsewhere
    _refuse_missing(composed, [*taken, *given])
    return composed


def compare_with_recipe(
    config: TrainConfig, hashes: Mapping[str, str], versions: Mapping[str, str], progress: Progress
) -> None:
    """Print the differences from the repeated run; refuse unrequested changes of content.

    Other data or another base by an override of ``data`` or ``model`` is printed; changed content
    under unchanged settings is an error.

    Args:
        config: Config of this run.
        hashes: Hashes of its data and base, as in the header.
        versions: Versions of the libraries.
        progress: Prints.

    Raises:
        ConfigError: Naming what changed, and the remedy.
    """
    recipe = read_recipe(Path(str(config.from_lora)))
    now = flat({k: v for k, v in as_written(config).items() if k not in OF_THIS_RUN})
    before = flat({k: v for k, v in recipe["config"].items() if k not in OF_THIS_RUN})
    changed = differences(before, now)
    progress.print(f"repeats {config.from_lora}")
    for key, old, new in changed:
        progress.print(f"  {key}: {old!r} in the file, {new!r} now")
    for group in ("data", "model"):
        names = [name for name in recipe["hashes"] if (name == "data") == (group == "data")]
        other = [name for name in names if recipe["hashes"][name] != hashes.get(name)]
        chosen = [
            key
            for key, _, _ in changed
            if key.startswith(f"{group}.") and not key.startswith(SAME_CONTENT)
        ]
        if other and not chosen:
            raise ConfigError(
                f"from_lora={config.from_lora}: {', '.join(other)} differs from that of the "
                "training (SHA-256), so this would be no repeat; restore it, or set a key of "
                f"{group} to train on what is here"
            )
        for name in other:
            progress.print(f"  note: {name} differs from that of the training: no exact repeat")
    for name, old, new in differences(recipe["versions"], versions):
        progress.print(f"  note: {name} {old} in the file, {new} here: last bits may differ")


def _refuse_missing(composed: DictConfig, given: Sequence[str]) -> None:
    """Refuse paths of the header that do not exist on this machine."""
    keys = ["sampling.prompts", "evaluation.references"]
    if composed.data.source == "folder":
        keys += ["data.root", "data.val_root"]
        keys += [f"data.roots[{i}].path" for i in range(len(composed.data.roots))]
    for key in keys:
        path = OmegaConf.select(composed, key)
        named = any(key == item or key.startswith((f"{item}.", f"{item}[")) for item in given)
        if path not in (None, CAPTIONS) and not named and not located(path).exists():
            raise ConfigError(
                f"{key}={path}: named by {composed.from_lora}, but not found; give the path on "
                f"this machine with {key.partition('[')[0]}=..."
            )
