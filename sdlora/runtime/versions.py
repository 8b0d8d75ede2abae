"""Versions of Python, this project and the libraries whose numbers depend on them."""

import platform
from importlib.metadata import version

from sdlora import __version__


def versions() -> dict[str, str]:
    """Versions by package name."""
    names = ("torch", "lightning", "diffusers", "transformers", "peft", "torchmetrics", "deepface")
    known = {name: version(name) for name in names}
    return {"sdlora": __version__, "python": platform.python_version()} | known
