"""Config of a resumed run: its own record, under what the command line gives now."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sdlora.cli.stored_config import OVERLAYS, given_keys, laid_under
from sdlora.commands.train.from_lora import with_recipe
from sdlora.commands.train.kept_plan import as_asked
from sdlora.config.rules import ConfigError
from sdlora.runs.identity import read_record
from sdlora.runs.origin import ORIGIN, refuse_strange
from sdlora.runs.partial_files import mapping
from sdlora.runs.run_config import read_given

OF_THIS_START = ("resume", "resume_step", "check", "run_dir")
"""Keys of a start of the run, which are not part of its settings."""


def with_stored(composed: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """The config under the command line: that of ``resume``'s folder, or of ``from_lora``'s header.

    Args:
        composed: The config as composed without it; it is changed.
        arguments: The command line's overrides.

    Raises:
        ValueError: If it cannot be read, or cannot be laid under these overrides.
    """
    if composed.resume is None:
        return with_recipe(composed, arguments)
    folder, key = Path(composed.resume), f"resume={composed.resume}"
    if composed.check:
        raise ConfigError(
            f"check=true: only checks pictures, and {key} only continues a run; leave out one of "
            "the two"
        )
    if composed.from_lora is not None and "from_lora" in given_keys(arguments):
        raise ConfigError(
            f"from_lora={composed.from_lora}: starts a new run, and {key} continues one; leave "
            "out one of the two"
        )
    record = read_record(folder)
    refuse_strange(mapping(record.get("config")), record.get(ORIGIN), given_keys(arguments), key)
    before = {item for start in read_given(folder) for item in start}
    # an overlay that is given again has been laid already
    given = [item for item in arguments if _key(item) not in OVERLAYS or item not in before]
    stored = {k: v for k, v in as_asked(folder).items() if k not in OF_THIS_START}
    return laid_under(composed, stored, given, key)


def _key(item: str) -> str:
    return given_keys([item])[0]
