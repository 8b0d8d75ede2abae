"""Start and end of a program: library settings, linked processes, error messages."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches

from sdlora.runtime.log_file import write_to_log

TRACEBACK = "HYDRA_FULL_ERROR"
"""Environment variable that shows the whole traceback, as in every Hydra program."""

USER_ERROR = 2
"""Exit code after an error."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of SIGINT."""

FOLLOWS = "SDLORA_FOLLOWS"
"""Environment variable of a process that was started for a further device of a run."""


def process_rank(num_processes: int) -> int:
    """Rank of this process among those of one run; 0 is the first, which alone writes.

    Args:
        num_processes: Number of processes of the run. Slurm's rank does not count for runs of one
            process.
    """
    if "RANK" in os.environ:  # of torchrun, or of the first process
        return int(os.environ["RANK"])
    return int(os.environ.get("SLURM_PROCID", "0")) if num_processes > 1 else 0


def follow() -> None:
    """End this process when the one that started it for a further device ends, for whatever reason.

    The first process holds the other end of this one's standard input, which the system closes
    with it, also where it was killed.
    """
    if os.environ.pop(FOLLOWS, None) is not None:
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held at the end of the interpreter
        pass
    os._exit(USER_ERROR)


def require_command(program: str, words: Sequence[str], known: Collection[str]) -> None:
    """Check the command name of a command line; argparse reports a missing one.

    Args:
        program: Its name.
        words: Its command line.
        known: Its command names.

    Raises:
        ValueError: Naming the nearest command, and all.
    """
    name = words[0] if words else "-"
    if name.startswith("-") or name in known:
        return
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {program} {near[0]}? " if near else ""
    raise ValueError(f"{program} {name}: no such command; {hint}there are {', '.join(known)}")


def run_task(task: Callable[[], None]) -> None:
    """Run a program without a config; an error becomes one message and an exit code."""
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
    """Print an error as one message, in the log file too, and return the exit code."""
    rank = process_rank(1)
    process = f" in process {rank}" if rank > 0 else ""
    text = f"error{process}: {message_of(error)}"
    print(text, file=sys.stderr)
    write_to_log(text)
    print(f"(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)
    return USER_ERROR


def message_of(error: Exception) -> str:
    """The message of an error; with its class name, unless it is written for users."""
    return str(error) if is_for_users(error) else f"{type(error).__name__}: {error}"


def is_for_users(error: Exception) -> bool:
    """Whether the message of an error is written for users."""
    return isinstance(error, ValueError) or type(error).__module__.startswith("sdlora.")


def settle_libraries() -> None:
    """Set environment variables and warning filters, before the libraries are imported."""
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")  # a model folder runs no code
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # bitsandbytes' advice on 4-bit matrix products, which nothing here makes
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # remarks of Lightning about itself, and about frozen parts being in eval mode, as they should
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
