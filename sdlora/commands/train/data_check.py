"""Checked data -> the data sheet: what a person should know before training, and what stops it."""

from pathlib import Path

from PIL import Image

from sdlora.assembly.data_source import named_roots
from sdlora.assembly.new_word import tokenizers
from sdlora.config.data import DataConfig
from sdlora.config.train import TrainConfig
from sdlora.data.captions.caption_check import caption_findings, frequent_words
from sdlora.data.captions.recipe import is_static, sample_caption, static_caption
from sdlora.data.pictures.cuts import cut_out
from sdlora.data.pictures.picture import ERROR
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sheet import data_sheet as sheet
from sdlora.data.sheet import verdict as check
from sdlora.data.sheet.contact_sheet import contact_pages, write_contact_sheets
from sdlora.data.sources.picture_source import DataError
from sdlora.models.tokens import tokenize
from sdlora.runtime.progress import Progress


def data_sheet(config: TrainConfig, data: PictureSet) -> sheet.Sheet:
    """Everything that is known of the pictures; captions are tokenised, nothing is decoded."""
    recipe, pictures = config.data.captions, data.source.pictures
    captions = [
        static_caption(recipe, picture.text, picture.prefix)
        if is_static(recipe)
        else sample_caption(recipe, picture.text, picture.prefix, config.seed, number)
        for number, picture in enumerate(pictures)
    ]
    found = tokenizers(config.model, config.lora.new_word)
    cut = tokenize(found, captions, recipe.max_chunks).cut
    odd = caption_findings(pictures, recipe, cut, _meant(config.data)) if found else []
    rows = [
        sheet.row(picture, geometry, caption)
        for picture, geometry, caption in zip(pictures, data.geometry, captions, strict=True)
    ]
    return sheet.sheet(
        rows,
        [*data.source.findings, *odd],
        data.source.notes,
        frequent_words(pictures, recipe),
        config.data.batch_size,
        data.faces,
    )


def _meant(data: DataConfig) -> set[str]:
    """Captions that many pictures share because the config says so."""
    given = [data.captions.default, data.prior.prompt, *(root.class_caption for root in data.roots)]
    return {text.strip() for text in given if text}


def write_data_sheet(
    config: TrainConfig, data: PictureSet, folder: Path, progress: Progress
) -> sheet.Sheet:
    """Write ``dataset.json`` and print what matters of it."""
    found = data_sheet(config, data)
    check.write_sheet(folder / check.FILE_NAME, found)
    check.print_sheet(found, progress, with_errors=config.data.on_error == "skip")
    return found


def say_left_out(found: sheet.Sheet, before: PictureSet, folder: Path, progress: Progress) -> None:
    """Name pictures that turned out not to decode, and write the sheet without them."""
    check.write_sheet(folder / check.FILE_NAME, found)
    known = set(before.source.findings)
    for finding in found.findings:
        if finding.severity == ERROR and finding not in known:
            progress.print(f"left out: {finding}")


def refuse_findings(data: DataConfig, found: sheet.Sheet) -> None:
    """Stop if some files cannot be trained on, or none is left.

    Raises:
        DataError: Listing all errors at once, unless ``data.on_error=skip``.
    """
    if data.on_error == "raise":
        check.refuse(found.findings)
    if not found.rows:
        removed = found.counts["files_removed"]
        reason = f"; {removed} file(s) removed by filters" if removed else ""
        notes = "".join(f"\n  note: {note}" for note in found.notes)
        raise DataError(f"{named_roots(data)}: no usable picture{reason}{notes}")


def draw_contact_sheets(
    data: PictureSet, found: sheet.Sheet, folder: Path, progress: Progress
) -> list[Path]:
    """What the model will see, with captions, as pictures in the run folder."""

    def tile(number: int) -> Image.Image:
        return cut_out(data.source.image(number), data.geometry[number])

    return write_contact_sheets(folder, contact_pages(found.rows, tile, progress))
