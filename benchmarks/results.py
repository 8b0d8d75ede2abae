"""What a benchmark found: shown as a table, kept as JSON, and put into ``docs/speed.md``."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sdlora.runtime.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "peft", "accelerate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One table.

    Attributes:
        name: Of its JSON file and of its place on the page.
        command: That measures it again.
        machine: As :func:`machine` gives it.
        headers: One a column.
        rows: As shown, a cell a column.
        measured: The numbers behind the rows.
    """

    name: str
    command: str
    machine: dict[str, str]
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


def machine() -> dict[str, str]:
    """What the numbers belong to: device, processor, system, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processor = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    system = f"{platform.system()} {platform.machine()}"
    known = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"device": device, "processor": processor, "system": system, **known}


def headline(result: Result) -> str:
    """The machine and versions in a line."""
    known = result.machine
    at = ", ".join(f"{name} {known[name]}" for name in (*LIBRARIES, "python"))
    return f"{known['device']}, {known['processor']}, {known['system']}; {at}"


def show(result: Result) -> None:
    """Print the table."""
    table = Table(title=f"{result.command}\n{headline(result)}")
    for number, heading in enumerate(result.headers):
        table.add_column(heading, justify="right" if number > 1 else "left", no_wrap=True)
    for row in result.rows:
        table.add_row(*row)
    Console(width=160).print(table)


def earlier(result: Result) -> Result:
    """The result of that name that was written before, on such a machine; else one of no rows."""
    path = RESULTS / f"{result.name}.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {"machine": {}}
    if stored["machine"] != result.machine:
        return replace(result, rows=[], measured={})
    rows = [tuple(row) for row in stored["rows"]]
    return replace(result, rows=rows, measured=stored["measured"])


def publish(result: Result) -> None:
    """Write the JSON file, and the table at its place on the page; nothing of nothing measured.

    Raises:
        ValueError: If the page has no such place.
    """
    if not result.measured:
        return
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{result.name}.json", asdict(result))
    write_text(PAGE, with_table(PAGE.read_text("utf-8"), result))


def with_table(page: str, result: Result) -> str:
    """The page's text with the table between the result's two marks.

    Raises:
        ValueError: If it has no such marks.
    """
    opening, closing = (f"<!-- {result.name}:{end} -->" for end in ("begin", "end"))
    before, opened, rest = page.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (opened and closed):
        raise ValueError(f"{PAGE}: no marks {opening} and {closing}; put them where the table goes")
    aligned = ["---" if number < 2 else "---:" for number in range(len(result.headers))]
    lines = [f"| {' | '.join(row)} |" for row in (result.headers, aligned, *result.rows)]
    text = "\n".join([f"`{result.command}`: {headline(result)}.", "", *lines])
    return f"{before}{opening}\n{text}\n{closing}{after}"
