"""The pictures of a run: training and held out, data sheet, contact sheets, and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlora.assembly.base_model import model_source
from sdlora.assembly.data_source import held_out as held_out_folder
from sdlora.assembly.data_source import held_out_fraction
from sdlora.assembly.new_word import check_new_word, tokenizers
from sdlora.assembly.training_pictures import held_out_pictures, training_pictures
from sdlora.assembly.validation_prompts import validation_prompts
from sdlora.config.data import DataConfig
from sdlora.config.train import TrainConfig
from sdlora.data.pictures.picture import ERROR, listed
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet import data_sheet as sheet
from sdlora.data.sheet import sheet_output as check
from sdlora.data.sheet.contact_sheet import (
    contact_pages,
    contact_tiles,
    pages_of,
    write_contact_sheets,
)
from sdlora.data.sources.picture_source import DataError
from sdlora.models.known_configs import known_configs
from sdlora.reports.data_page import write_data_page
from sdlora.runtime.places import from_here
from sdlora.runtime.progress import Progress


def check_data(config: TrainConfig, folder: Path, progress: Progress) -> None:
    """Decode every picture, and write data sheet and contact sheets, without training.

    No file of the model is needed.

    Raises:
        DataError: Listing all pictures that cannot be trained on.
        ConfigError: If prompts or captions lack a word that they need.
    """
    data, held_out = run_pictures(config, folder, progress)
    sheet = data_sheet(config, data)
    write_data_sheet(sheet, config.data, folder, progress)
    tiles = contact_tiles(sheet.rows, data, progress, whole=True)
    sheets = write_contact_sheets(folder, pages_of(tiles, len(sheet.rows)))
    page = write_data_page(folder, config.data, [(each.number, each.image) for each in tiles])
    progress.print("")
    progress.print(f"Look at: {from_here(page)} (pictures as cut, captions, findings by file)")
    for path in sheets:
        progress.print(f"Look at: {from_here(path)} (dark: what training cuts away)")
    progress.print(f"All by name: {from_here(folder / check.FILE_NAME)}")
    refuse_findings(config.data, sheet)
    prompts = validation_prompts(config, data, held_out)
    check_new_word(config, data, prompts.drawn, progress)


def run_pictures(
    config: TrainConfig, folder: Path, progress: Progress
) -> tuple[PictureSet, PictureSet | None]:
    """The training pictures and the held-out ones of a run; ``None``: nothing is held out."""
    scores = config.evaluation
    data = training_pictures(
        config.data,
        config.model,
        folder,
        progress,
        is_check=config.check,
        with_faces=scores.face.name == "deepface",  # scores of real faces
    )
    held_out = held_out_pictures(config.data, config.model, progress, is_check=config.check)
    others, automatic = held_out_folder(config.data, progress), data.automatic_fraction
    if part := held_out_fraction(config.data, scores.references, scores.hw10, others, automatic):
        data, held_out = data.split(part)
        count = len(held_out.geometry)
        why = (
            "a tenth, for validation loss and scores, as no other pictures are held out; "
            "data.val_fraction=0 trains on all"
            if config.data.val_fraction is None
            else "data.val_fraction"
        )
        names = [picture.name for picture in held_out.source.pictures]
        progress.print(
            f"{count} of {count + len(data.geometry)} pictures are held out ({why}): "
            f"{listed(names)}"
        )
    if held_out is not None:
        names = [picture.name for picture in held_out.source.pictures]
        data = replace(data, held_out=names)
    return data, held_out


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


def sheets_of_used(
    config: TrainConfig,
    found: PictureSet,
    used: PictureSet,
    folder: Path,
    progress: Progress,
    is_first: bool,
) -> list[Path]:
    """Write the contact sheets; pictures that cannot be decoded are named, or stop the run."""
    sheet = data_sheet(config, used)
    if used is not found:
        if is_first:
            say_left_out(sheet, found, folder, progress)
        refuse_findings(config.data, sheet)
    if not is_first:
        return []
    return write_contact_sheets(folder, contact_pages(sheet.rows, used, progress))
