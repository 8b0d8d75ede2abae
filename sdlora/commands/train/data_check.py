"""The data check of a run: data sheet, contact sheets, and the refusal of unusable pictures."""

from pathlib import Path
from typing import Any

from sdlora.assembly.base_model import model_source
from sdlora.assembly.new_word import tokenizers
from sdlora.config.data import DataConfig
from sdlora.config.train import TrainConfig
from sdlora.data.pictures.picture import ERROR
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet import data_sheet as sheet
from sdlora.data.sheet import sheet_output as check
from sdlora.data.sheet.contact_sheet import contact_pages, write_contact_sheets
from sdlora.data.sources.picture_source import DataError
from sdlora.models.known_configs import known_configs
from sdlora.runtime.progress import Progress


def data_sheet(config: TrainConfig, data: PictureSet) -> sheet.Sheet:
    """Everything that is known of the pictures."""
    found: list[Any] | None = None
    folder = known_configs(model_source(config.model)) if config.check else None
    if folder is not None or not config.check:
        found = tokenizers(config.model, config.lora.new_word, folder)
    return sheet.sheet_of(data, config.data, config.seed, found)


def write_data_sheet(
    found: sheet.Sheet, data: DataConfig, folder: Path, progress: Progress
) -> None:
    """Write ``dataset.json`` and print a summary."""
    check.write_sheet(folder / check.FILE_NAME, found)
    check.print_sheet(found, progress, with_errors=data.on_error == "skip")


def say_left_out(found: sheet.Sheet, before: PictureSet, folder: Path, progress: Progress) -> None:
    """Name pictures that cannot be decoded, and write the sheet without them."""
    check.write_sheet(folder / check.FILE_NAME, found)
    known = set(before.source.findings)
    for finding in found.findings:
        if finding.severity == ERROR and finding not in known:
            progress.print(f"left out: {finding}")


def refuse_findings(data: DataConfig, found: sheet.Sheet) -> None:
    """Raise an error if some files cannot be trained on, or none is left.

    Raises:
        DataError: Listing all errors at once, unless ``data.on_error=skip``.
    """
    if data.on_error == "raise":
        check.refuse(found.findings)
    if not found.rows:
        removed = found.counts["files_removed"]
        reason = f"; {removed} file(s) removed by filters" if removed else ""
        notes = "".join(f"\n  note: {note}" for note in found.notes)
        raise DataError(f"{data.named_source}: no usable picture{reason}{notes}")


def draw_contact_sheets(
    data: PictureSet,
    found: sheet.Sheet,
    folder: Path,
    progress: Progress,
    *,
    whole: bool = False,
) -> list[Path]:
    """Write the contact sheets: pictures as training cuts them, with captions.

    Args:
        data: The pictures.
        found: Their data sheet.
        folder: The run folder.
        progress: Shows a bar.
        whole: Show whole pictures, with what the cut takes away darkened.
    """
    return write_contact_sheets(folder, contact_pages(found.rows, data, progress, whole=whole))
