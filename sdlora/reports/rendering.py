"""Rendering of a page as one HTML file: template, styles and scripts inline."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from sdlora.runtime import files

_TEMPLATE = Path(__file__).parent / "template"


def write_page(
    path: Path,
    template: str,
    facts: Mapping[str, Any],
    *,
    libraries: Sequence[str] = (),
    parts: Sequence[str] = (),
    styles: Sequence[str] = ("page",),
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: The file.
        template: Name of ``NAME.html``, ``NAME.css`` and ``NAME.js``.
        facts: Values of the template.
        libraries: Scripts before the page's own.
        parts: Names of further scripts, before the template's own.
        styles: Names of style sheets, before the template's own if it has one.

    Returns:
        The file.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # bokeh refers backwards
    scripts = [*libraries, *_read("js", "shared", *parts, template)]
    page = environment.get_template(f"{template}.html").render(
        **facts,
        style=Markup("".join(_read("css", *dict.fromkeys((*styles, template))))),  # ours
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_script_hash(script) for script in scripts],
    )
    # names of files that are no Unicode hold lone surrogates
    files.write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def _read(ending: str, *names: str) -> list[str]:
    paths = [_TEMPLATE / f"{name}.{ending}" for name in names]
    return [path.read_text(encoding="utf-8") for path in paths]


def _script_hash(script: str) -> str:
    """Hash of a script for the content security policy, which allows no other script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
