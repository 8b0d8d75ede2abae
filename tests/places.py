"""Folders that tests read: the checkout, and real photos where they lie beside it."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

SHARED = Path(os.environ.get("SDLORA_SHARED", REPOSITORY.parent / "shared"))

PHOTOS = SHARED / "data" / "hw10" / "photos"
"""A hundred captioned photos of one person; tests that want them are skipped without."""
