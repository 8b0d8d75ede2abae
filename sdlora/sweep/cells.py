"""Reader of a sweep's folder: the swept keys, and the state and results of each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdlora.evaluation.scores import Scores, scores_from
from sdlora.runs.best import Best, read_best
from sdlora.runs.identity import CONFIG
from sdlora.runs.metrics import read_steps
from sdlora.runs.partial_files import inside, is_number, mapping, read_mapping
from sdlora.runs.report import REPORT
from sdlora.runtime.foreign_yaml import read_yaml
from sdlora.sweep.plan import FILE_NAME, VERSION
from sdlora.sweep.state import FILE_NAME as CELL_FILE
from sdlora.sweep.state import RUNNING

NOT_BEGUN = "not begun"
SEED = "seed"
"""The key whose values are repeats of the same settings."""


class SweepError(ValueError):
    """A folder without a usable ``sweep.yaml``."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep with its state and results.

    Attributes:
        number: Number of the cell in ``sweep.yaml``.
        folder: Its run folder; missing before it begins.
        overrides: Swept key -> its value here.
        state: ``not begun``, ``running`` (or killed), ``done``, ``failed``, or another text of its
            file.
        reason: Why it failed.
        seconds: Its duration in seconds.
        peak_memory_mib: Its peak memory in MiB.
        trainable_parameters: Number of trained parameters.
        file_bytes: Size of its LoRA file.
        config: Config of the run; empty if unknown.
        base: Scores of the base on the cell's prompts and noise.
        final: Scores of the last step.
        best: The best scored step.
        lines: Lines of ``metrics.jsonl``.
        notes: Files of the folder that cannot be read.
    """

    number: int
    folder: Path
    overrides: Mapping[str, Any]
    state: str = NOT_BEGUN
    reason: str | None = None
    seconds: float | None = None
    peak_memory_mib: float | None = None
    trainable_parameters: int | None = None
    file_bytes: int | None = None
    config: Mapping[str, Any] | None = None
    base: Scores | None = None
    final: Scores | None = None
    best: Best | None = None
    lines: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Its swept values as text."""
        return ", ".join(f"{key}={value_text(value)}" for key, value in self.overrides.items())

    @property
    def last_step(self) -> int | None:
        """The last step in ``metrics.jsonl``."""
        return max((line["step"] for line in self.lines), default=None)

    @property
    def chosen(self) -> Best | None:
        """The step to take of this cell: the best, else the last if that was scored."""
        if self.best is not None or self.final is None:
            return self.best
        return Best(self.last_step or 0, self.final)

    @property
    def chosen_scores(self) -> Scores | None:
        """The scores of that step."""
        return None if self.chosen is None else self.chosen.scores

    def at(self, key: str) -> Any:
        """A value of its config by dotted key; None if unknown."""
        value: Any = self.config
        for part in key.split("."):
            value = mapping(value).get(part)
        return value


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a sweep.

    Attributes:
        folder: Folder of the sweep.
        name: Name of the sweep.
        command: The overrides as typed.
        swept: Key -> its values, in the order of ``sweep.yaml``, then values that only cells have.
        shared: Overrides of all cells.
        cells: By number.
    """

    folder: Path
    name: str
    command: Sequence[str]
    swept: Mapping[str, Sequence[Any]]
    shared: Sequence[str]
    cells: Sequence[Cell]

    @property
    def base(self) -> Scores | None:
        """The base's scores, from the first cell that has them."""
        return next((cell.base for cell in self.cells if cell.base is not None), None)

    def in_state(self, state: str) -> list[Cell]:
        """The cells in this state."""
        return [cell for cell in self.cells if cell.state == state]


def read_sweep(folder: Path) -> Sweep:
    """Read ``sweep.yaml`` and the folders of all cells.

    A cell may be missing, killed or damaged: unreadable files are in its ``notes``.

    Args:
        folder: Of the sweep.

    Raises:
        SweepError: If there is no ``sweep.yaml`` or it has another shape.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise SweepError(f"sweep={folder}: holds no {FILE_NAME}; name the folder of a sweep")
    try:
        stored = read_yaml(path)
        if stored["version"] != VERSION:
            raise SweepError(
                f"sweep={folder}: {FILE_NAME} is of version {stored['version']}, this program "
                f"reads {VERSION}; use the program that wrote it"
            )
        cells = sorted((_cell(folder, entry) for entry in stored["cells"]), key=lambda c: c.number)
        return Sweep(
            folder=folder,
            name=str(stored["name"]),
            command=[str(item) for item in stored["command"]],
            swept=_swept(stored["swept"], cells),
            shared=[str(item) for item in stored["shared"]],
            cells=cells,
        )
    except SweepError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise SweepError(
            f"sweep={folder}: {FILE_NAME} is damaged ({type(error).__name__}: {error}); run the "
            "sweep again, which writes the file again and keeps finished cells"
        ) from error


def swept_values(run: Path) -> dict[str, Any]:
    """The swept values of a run that is a cell of the sweep in its parent folder; else none."""
    try:
        cells = read_yaml(run.parent / FILE_NAME)["cells"]
        own = next(cell for cell in cells if cell["folder"] == run.name)
        return dict(own["overrides"])
    except (OSError, KeyError, TypeError, ValueError, StopIteration):
        return {}


def value_text(value: Any) -> str:
    """A swept value as typed on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _swept(listed: Mapping[str, Sequence[Any]], cells: Sequence[Cell]) -> dict[str, list[Any]]:
    """The values of each key: those of ``sweep.yaml``, then those that only cells have."""
    values = {str(key): list(found or []) for key, found in listed.items()}
    searched: dict[str, list[Any]] = {key: [] for key in values}
    for cell in cells:
        for key, value in cell.overrides.items():
            if value not in values.setdefault(key, []) + searched.setdefault(key, []):
                searched[key].append(value)
    for key, found in searched.items():
        is_ordered = all(isinstance(value, int | float) for value in found)
        values[key] += sorted(found) if is_ordered else found
    return values


def _cell(sweep: Path, entry: Mapping[str, Any]) -> Cell:
    folder = inside(sweep, entry["folder"])
    if folder is None:
        raise SweepError(
            f"sweep={sweep}: {FILE_NAME} names {entry['folder']!r}, which is outside the folder; "
            "correct or remove that cell"
        )
    notes: list[str] = []
    stored = read_mapping(folder, CELL_FILE, notes)
    state = RUNNING if (folder / CELL_FILE).is_file() else NOT_BEGUN
    report = mapping(read_mapping(folder, REPORT, notes).get("scores"))
    final = None if len(report) < 2 else list(report)[-1]
    return Cell(
        number=int(entry["number"]),
        folder=folder,
        overrides={str(key): value for key, value in entry["overrides"].items()},
        state=str(stored.get("state", state)),
        reason=None if stored.get("reason") is None else str(stored["reason"]),
        seconds=_number(stored.get("seconds")),
        peak_memory_mib=_number(stored.get("peak_memory_mib")),
        trainable_parameters=_whole(stored.get("trainable_parameters")),
        file_bytes=_whole(stored.get("file_bytes")),
        config=mapping(read_mapping(folder, CONFIG, notes).get("config")),
        base=_scores(report.get("base"), "base", notes),
        final=None if final is None else _scores(report[final], final, notes),
        best=_best(folder),
        lines=read_steps(folder, notes),
        notes=notes,
    )


def _scores(stored: Any, name: str, notes: list[str]) -> Scores | None:
    if stored is None:
        return None
    try:
        return _measured(scores_from(stored))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        notes.append(f"{REPORT}: the scores of {name} have another shape ({error}).")
        return None


def _best(folder: Path) -> Best | None:
    best = read_best(folder)
    return None if best is None else Best(best.step, _measured(best.scores))


def _measured(scores: Scores) -> Scores:
    """The scores that are finite numbers."""
    values = {name: value for name, value in scores.values.items() if is_number(value)}
    return replace(scores, values=values)


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _whole(value: Any) -> int | None:
    return int(value) if is_number(value) else None
