"""Fetching: what is there, what is got, what could not be got."""

from collections.abc import Sequence

from sdlora.assembly.needed_weights import Need
from sdlora.config.rules import ConfigError
from sdlora.runtime.progress import Progress
from sdlora.weights.downloads import DownloadError, fetch_face_file, fetch_model
from sdlora.weights.face_files import file_faults, known_size, weights_folder
from sdlora.weights.hub_models import cache_place


def fetch(needs: Sequence[Need], progress: Progress) -> None:
    """Get all files that are not there, or not whole.

    Args:
        needs: What a run needs.
        progress: Shows what is done.

    Raises:
        ConfigError: If some could not be got, after all others were; it names each with the reason.
    """
    if not needs:
        progress.print("nothing to get: this run needs only what comes with the project")
        return
    failed: list[str] = []
    for need in dict.fromkeys(needs):
        failed += _fetch_one(need, progress)
    if failed:
        raise ConfigError("\n  ".join(["not everything could be got:", *failed]))
    progress.print("all that this run needs is here; to use it on another machine, copy:")
    if any(need.model is not None for need in needs):
        progress.print(f"  {cache_place()}")
    if any(need.files for need in needs):
        progress.print(f"  {weights_folder()}")


def _fetch_one(need: Need, progress: Progress) -> list[str]:
    """Get what one part of the run needs; returns what could not be got."""
    label = f"{need.key}={need.value}"
    failed = []
    if (lacking := need.library_fault()) is not None:
        failed.append(lacking)
    elif need.fault() is None:
        progress.print(f"{label}: is there")
        return []
    if need.model is not None:
        progress.print(f"{label}: getting it from the Hub")
        try:
            progress.print(f"{label}: {fetch_model(need.model, progress)}")
        except DownloadError as error:
            failed.append(f"{label}: {error}")
    for name in file_faults(need.files):
        size = known_size(name)
        known = "" if size is None else f" ({size / 2**20:.1f} MiB)"
        progress.print(f"{label}: getting {name}{known}")
        try:
            progress.print(f"{label}: {name}: {fetch_face_file(name, progress)}")
        except DownloadError as error:
            failed.append(f"{label}: {error}")
    return failed
