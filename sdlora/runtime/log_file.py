"""The log file of a program: what was said on the console stands there, too."""

import io
import logging

LOG_WIDTH = 120
"""Letters in a line of a table in a log file."""


def write_to_log(message: object) -> None:
    """Write a message into the log files that Hydra opened, and on no console.

    Args:
        message: Text, or what rich draws, such as a table.
    """
    files = [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
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
