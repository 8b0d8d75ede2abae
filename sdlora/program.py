"""How a program of this project begins and ends: libraries settled, errors in one message."""

import logging
import os
import sys
import warnings
from collections.abc import Callable

TRACEBACK = "HYDRA_FULL_ERROR"
"""Environment variable that asks for the whole traceback, as in every Hydra program."""

USER_ERROR = 2
"""Exit code of a run that was asked for something impossible, or that could not go on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of SIGINT."""


def run_task(task: Callable[[], None]) -> None:
    """Run a program that has no config; its error becomes one message and an exit code."""
    settle_libraries()
    try:
        task()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        sys.exit(report(error))


def report(error: Exception) -> int:
    """Print an error as one message; gives the exit code."""
    print(f"error: {message_of(error)}", file=sys.stderr)
    print(f"(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)
    return USER_ERROR


def message_of(error: Exception) -> str:
    """What an error says; with its kind, unless it is one that speaks to the user."""
    is_told = isinstance(error, ValueError) or type(error).__module__.startswith("sdlora.")
    return str(error) if is_told else f"{type(error).__name__}: {error}"


def settle_libraries() -> None:
    """What the libraries read from the environment when they are imported."""
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")  # a model folder runs no code
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # bitsandbytes' advice on 4-bit matrix products, which nothing here makes
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # remarks of Lightning about itself, and about frozen parts being in eval mode, as they should
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
