"""A small picture in the header of a LoRA file, which lists of models show."""

import base64
import io
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from sdlora.runtime.files import atomic_path

THUMBNAIL = "modelspec.thumbnail"
"""Header entry: a ``data:`` URI. Source: ModelSpec 1.0.1 (Stability-AI/ModelSpec)."""

SIDE_PX = 256
"""Longest side; as JPEG some 10 to 30 KB, where safetensors takes headers of 100 MB."""

QUALITY = 85


def thumbnail_uri(image: Image.Image) -> str:
    """A picture as the text of the entry, without what its file said beside the pixels.

    Args:
        image: Of any size and mode; what is transparent becomes black.
    """
    small = image.convert("RGB")
    small.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    small.info = {}  # a comment would go into the JPEG
    data = io.BytesIO()
    small.save(data, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def add_thumbnail(files: Iterable[Path], image: Image.Image) -> None:
    """Put a picture into the headers of LoRA files; their weights stay to the bit.

    Args:
        files: Whole ``.safetensors`` files; each is replaced as a whole.
        image: The picture.
    """
    text = thumbnail_uri(image)
    for file in files:
        with file.open("rb") as before, atomic_path(file) as temporary:
            length = int.from_bytes(before.read(8), "little")
            content = json.loads(before.read(length))
            content["__metadata__"] = {**content.get("__metadata__", {}), THUMBNAIL: text}
            changed = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
            changed += b" " * (-len(changed) % 8)  # as the format aligns its tensors
            with temporary.open("wb") as after:
                after.write(len(changed).to_bytes(8, "little") + changed)
                shutil.copyfileobj(before, after)
