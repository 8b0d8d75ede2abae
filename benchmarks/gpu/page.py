"""The page of the GPU script: a table for each part, from its JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path

from sdlora.runtime.files import write_text

MARKS = {True: "✓", False: "✗", None: ""}


def write_page(folder: Path, parts: Sequence[tuple[str, str]], head: str) -> Path:
    """Write ``gpu.md`` from what the parts have written so far.

    Args:
        folder: Of their JSON files.
        parts: Name and one line of each, in order.
        head: The machine, and the command.
    """
    text = [f"# On a GPU\n\n{head}\n"]
    for name, about in parts:
        file = folder / f"{name}.json"
        lines = json.loads(file.read_text("utf-8")) if file.is_file() else []
        text.append(f"\n## {name}\n\n{about}\n")
        if not lines:
            text.append("\nNot measured.\n")
            continue
        text.append("\n| | what | found | wanted | s |\n| --- | --- | --- | --- | ---: |\n")
        text += [
            f"| {MARKS[line['is_right']]} | {line['what']} | {_cell(line['found'])} "
            f"| {line['wanted']} | {line['seconds']:.0f} |\n"
            for line in lines
        ]
    write_text(folder / "gpu.md", "".join(text))
    return folder / "gpu.md"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
