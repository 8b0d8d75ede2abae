"""Versions of what made the numbers."""

import platform
from importlib.metadata import version

from sdlora import __version__


def versions() -> dict[str, str]:
    """Of what made the numbers."""
    names = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics", "deepface")
    known = {name: version(name) for name in names}
    return {"sdlora": __version__, "python": platform.python_version()} | known
