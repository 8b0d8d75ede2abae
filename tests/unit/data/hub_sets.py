"""Small Hugging Face sets for tests, written without the package that reads them where possible."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sdlora.data.sources.hub_set import HubSet
from tests.configs import hub_config

SIZE = (40, 30)


def png(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = SIZE) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def shade(number: int) -> tuple[int, int, int]:
    """A colour that tells the picture's number."""
    return (number % 256, number // 256, 0)


def hub_set(path: Path | str, default_caption: str | None = None, **options: Any) -> HubSet:
    """A set with the usual options, but for those that are given."""
    config = hub_config(**options)
    return HubSet(path=str(path), config=config, default_caption=default_caption)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows as the Hub stores them, picture ``n`` in colour ``shade(n)``."""
    return [
        {"image": {"bytes": png(shade(n)), "path": f"{n}.png"}, "text": f"number {n}"}
        for n in range(first, first + count)
    ]


def write_parquet(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path


def write_folder(folder: Path, texts: dict[str, str], colour: str = "red") -> Path:
    """Pictures with ``metadata.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in texts:
        (folder / name).write_bytes(png(colour))
    lines = (json.dumps({"file_name": name, "text": text}) for name, text in texts.items())
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
