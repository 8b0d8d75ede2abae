"""``finished.json`` of a run: its last step and every file of its end, written as the last."""

from collections.abc import Iterable
from pathlib import Path

from sdlora.runs.partial_files import inside, read_mapping
from sdlora.runs.run_folder import LAST_STEP, LORA, PIPELINE
from sdlora.runtime.files import write_json

FINISHED = "finished.json"


def write_finished(run: Path, step: int, results: Iterable[str]) -> None:
    """Note that the end of a run is there: its exported files, and these.

    Args:
        run: The run folder.
        step: The last optimizer step.
        results: Names of further files; those that the run did not write are left out.
    """
    folders = (run / name for name in (LORA, PIPELINE, LAST_STEP))
    exported = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    further = [run / name for name in results if (run / name).is_file()]
    files = sorted(path.relative_to(run).as_posix() for path in [*exported, *further])
    write_json(run / FINISHED, {"step": step, "files": files})


def is_finished(run: Path, step: int) -> bool:
    """Whether the end of this step was reached, and all its files are still there."""
    stored = read_mapping(run, FINISHED, [])
    files = stored.get("files")
    if stored.get("step") != step or not isinstance(files, list):
        return False
    paths = [inside(run, name) for name in files]
    return bool(paths) and all(path is not None and path.is_file() for path in paths)


def forget_finished(run: Path) -> None:
    """Remove the note, since the run trains or exports again."""
    (run / FINISHED).unlink(missing_ok=True)
