"""Names of folders and files with a meaning of their own: held out, hidden, of a run."""

import os
from pathlib import Path

HELD_OUT = "held_out"
"""Name of the folder in a root whose pictures are held out from training, for scores."""

MASK_FOLDERS = frozenset(("mask", "masks"))
CAPTION_FOLDERS = frozenset(("caption", "captions", "text", "texts", "txt", "tags"))
"""Names, in lower case, of folders whose files belong to pictures beside or above them."""

_SYSTEM = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
    )
)
"""Files and folders that operating systems and network drives add, in lower case."""

_OUTPUT_FILES = (
    (".hydra",),
    ("config.json", "metrics.jsonl"),
    ("dataset.json", "contact_sheet.png"),
    ("report.json", "report.html"),
)
"""Files of a run, of a check and of an evaluation, all of which tell such a folder."""


def is_held_out(name: str) -> bool:
    """Whether a folder directly in a root is held out: ``held_out``, ``Held-Out``, ``heldout``."""
    letters = "".join(letter for letter in name.casefold() if letter not in "_- ")
    return letters == HELD_OUT.replace("_", "")


def held_out_folder(root: Path) -> Path | None:
    """The folder of a root that is held out, if there is one; the usual name goes first."""
    try:
        names = sorted(path.name for path in root.iterdir() if is_held_out(path.name))
    except OSError:
        return None
    usual = [HELD_OUT] * (HELD_OUT in names)
    folders = (root / name for name in [*usual, *names])
    return next((folder for folder in folders if folder.is_dir()), None)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden; macOS leaves a ``._a.jpg`` beside ``a.jpg``."""
    return name.startswith(".")


def is_system(name: str) -> bool:
    """Whether an operating system made the file or folder for itself."""
    return name.casefold() in _SYSTEM or name.startswith("._")


def is_own_output(folder: str) -> bool:
    """Whether a run of this project wrote a folder, such as one in ``outputs``."""
    return any(
        all(os.path.exists(os.path.join(folder, name)) for name in names) for names in _OUTPUT_FILES
    )
