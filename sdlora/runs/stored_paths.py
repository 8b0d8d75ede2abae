"""Paths of a stored config, as seen from another working folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATHS = (
    *("data.root", "data.roots.path", "data.val_root", "data.prior.root", "data.cache.dir"),
    *("model.path", "model.config", "model.vae", "model.draw_with", "lora.init_from"),
    *("sampling.prompts", "evaluation.references"),
    *(f"evaluation.{scorer}.options.model" for scorer in ("clip", "image", "aesthetic")),
    "evaluation.aesthetic.options.head",
    *(f"model.recommended.{name}" for name in ("clip_model", "image_model", "prompts")),
)
"""Keys whose values may be paths, which are relative to the working folder."""


def seen_from_here(config: Mapping[str, Any], working_folder: object) -> dict[str, Any]:
    """A stored config whose relative paths are found again from another working folder.

    A path that exists here counts as it is; else one that exists below the working folder in which
    the run was started is taken there.

    Args:
        config: The stored config.
        working_folder: Where the run was started; anything but text: not known.
    """
    if not isinstance(working_folder, str) or Path(working_folder) == Path.cwd():
        return dict(config)
    before = Path(working_folder)

    def found(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: found(each, f"{key}.{name}") for name, each in value.items()}
        if isinstance(value, list):
            return [found(each, key) for each in value]
        is_path = isinstance(value, str) and key in PATHS
        if is_path and not Path(value).exists() and (before / value).exists():
            return (before / value).as_posix()
        return value

    return {name: found(value, name) for name, value in config.items()}
