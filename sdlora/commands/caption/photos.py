"""The note on pictures that the embedded captioner does not know."""

from collections.abc import Sequence
from pathlib import Path

from sdlora.captioning.captioners import CAPTIONERS
from sdlora.captioning.drawn_world import SIZE
from sdlora.data.pictures.decode import read_header
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.runtime.progress import Progress


def note_on_photos(pictures: Sequence[Path], progress: Progress) -> None:
    """Say how many pictures are no drawn portraits, by their size, and what describes photos."""
    sizes = [size for path in pictures if (size := _size(path)) is not None]
    others = [size for size in sizes if size != SIZE]
    if not others:
        return
    names = ", ".join(name for name, kind in CAPTIONERS.items() if kind.model is not None)
    wide, high = SIZE
    progress.print(
        f"note: {len(others)} of {len(sizes)} picture(s) are not {wide}x{high} pixels. --model "
        "tiny knows drawn portraits alone, and its captions of photos are wrong; "
        f"for photos choose --model {names}, a Hub id or a folder"
    )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return read_header(path).size
    except (PictureError, OSError):  # named when it is decoded
        return None
