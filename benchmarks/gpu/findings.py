"""What a part of the GPU script found: lines that are written as soon as they are known."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sdlora.runtime.files import write_json

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line.

    Attributes:
        what: What was tried or measured.
        found: What came of it.
        wanted: What it should be; empty: it is only to be known.
        is_right: Whether it is; ``None``: nothing is wanted, or it was not measured.
        seconds: How long it took.
    """

    what: str
    found: str
    wanted: str = ""
    is_right: bool | None = None
    seconds: float = 0.0


class Findings:
    """The lines of one part, in a JSON file that is whole after each of them.

    Args:
        file: The JSON file.
        tell: Prints a line.
    """

    def __init__(self, file: Path, tell: Callable[[str], None] = print) -> None:
        self._file, self._tell = file, tell
        self.lines: list[Finding] = []
        self._began = time.perf_counter()

    def add(self, what: str, found: str, wanted: str = "", is_right: bool | None = None) -> None:
        """A line more; its time runs from the one before."""
        now = time.perf_counter()
        line = Finding(
            what=what, found=found, wanted=wanted, is_right=is_right, seconds=now - self._began
        )
        self._began = now
        self.lines.append(line)
        write_json(self._file, [asdict(each) for each in self.lines])
        mark = {True: "ok ", False: "NOT", None: "   "}[is_right]
        self._tell(f"{mark} {what}: {found}{f' (wanted {wanted})' if wanted else ''}")

    def not_measured(self, what: str, why: str) -> None:
        """A line for what cannot be tried here."""
        self.add(what, f"{NOT_MEASURED}: {why}")

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """What fails inside the block is a line, and costs those after it nothing."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            self.add(what, lines[0], "no error", False)
