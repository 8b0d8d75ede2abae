"""The log file of a program: what was said on the console stands there, too."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LOG_WIDTH = 120
"""Letters in a line of a table in a log file."""

LIBRARIES = ("transformers", "diffusers", "lightning.pytorch", "lightning.fabric", "datasets")
"""Loggers of libraries that may keep what they say from the log file."""


def write_to_log(message: object) -> None:
    """Write a message into the log files that Hydra opened, and on no console.

    Args:
        message: Text, or what rich draws, such as a table.
    """
    files = _log_files()
    if not files:
        return
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=LOG_WIDTH).print(
        message, markup=False, highlight=False, soft_wrap=True
    )
    record = logging.LogRecord("sdlora", logging.INFO, "", 0, text.getvalue().rstrip(), None, None)
    for file in files:
        file.handle(record)


@contextmanager
def libraries_in_log() -> Iterator[None]:
    """Write warnings of Python and of libraries' loggers into the log file as well."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        before(message, category, filename, lineno, file, line)
        write_to_log(f"{filename}:{lineno}: {category.__name__}: {message}")

    handlers = {name: _OfLibrary(name) for name in LIBRARIES}
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)


class _OfLibrary(logging.Handler):
    """Hands a library's warnings to the log files, unless the library lets them through itself."""

    def __init__(self, library: str) -> None:
        super().__init__(logging.WARNING)
        self._library = library

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if not _reaches_root(self._library):
            for file in _log_files():
                file.handle(record)


def _reaches_root(name: str) -> bool:
    """Whether what a logger says comes to the root logger, which has the log files."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger.parent is not None:
        if not logger.propagate:
            return False
        logger = logger.parent
    return True


def _log_files() -> list[logging.FileHandler]:
    return [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
