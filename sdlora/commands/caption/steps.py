"""Captioning of a folder, step by step: list, check, describe, show."""

from argparse import Namespace
from collections.abc import Callable, Sequence

from transformers.utils import logging as transformers_logging

from sdlora.assembly.needed_weights import needed_for_captions
from sdlora.captioning.caption_files import (
    APPEND,
    KEEP,
    OVERWRITE,
    CaptionWriter,
    Outcome,
)
from sdlora.captioning.caption_rules import CAPTION, CaptionRules
from sdlora.captioning.captioner import Wishes
from sdlora.captioning.captioners import CAPTIONERS, ChosenCaptioner, chosen_captioner
from sdlora.captioning.folder_pictures import (
    Captionable,
    FolderPictures,
    folder_pictures,
    unwritable,
)
from sdlora.commands.caption.compute import found_compute
from sdlora.commands.caption.data_check import caption_limit, check_captions, config_of_check
from sdlora.commands.caption.photos import note_on_photos
from sdlora.config.rules import ConfigError, require
from sdlora.data.captions.caption_text import CaptionError, check_caption_text
from sdlora.data.pictures.picture import Finding, listed
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress
from sdlora.weights.hub_models import model_fault


def caption(options: Namespace) -> None:
    """Caption the pictures of a folder that have none, and show all.

    Raises:
        ValueError: If something prevents it, before any weight is read; or, at the end, naming the
            pictures that got no caption.
    """
    chosen = chosen_captioner(options.model)
    check_options(options, chosen)
    base = options.base or chosen.kind.base
    config = config_of_check(options.folder, base)
    with Progress() as progress:
        found = folder_pictures(options.folder, config.data.captions.endings)
        for note in found.notes if options.no_sheet else ():  # the sheet has them
            progress.print(f"note: {note}")
        pictures = _to_caption(options, found, progress)
        outcome = Outcome()
        if pictures:
            require_there(chosen)
            fits = caption_limit(config, base, progress)
            outcome = _captioned(options, chosen, fits, pictures, progress)
            _say(outcome, progress)
        failed = [*found.refused, *outcome.failed]
        num_captions = len(found.pictures) + len(found.in_tables) - len(outcome.failed)
        if num_captions and not options.no_sheet:
            check_captions(options, config, base, progress)
        for finding in failed if options.on_error == "skip" else ():
            progress.print(f"left out: {finding}")
    if failed and options.on_error == "raise":
        lines = "".join(f"\n  {finding}" for finding in failed)
        raise DataError(
            f"{len(failed)} picture(s) got no caption:{lines}\n"
            "All others have one. Correct these, or accept it with --on-error skip."
        )


def check_options(options: Namespace, chosen: ChosenCaptioner) -> None:
    """Refuse options that the captioner does not have, and texts that no caption may hold."""
    kind, tasks = chosen.kind, chosen.kind.instructions
    if (asked := options.instruction) is not None:
        able = [each.name for each in CAPTIONERS.values() if each.instructions is not None]
        remedy = f"--model {options.model} takes none; leave it out, or choose {' or '.join(able)}"
        require(tasks is not None, "--instruction", asked, remedy)
        remedy = f"is none of its tasks: {', '.join(tasks or ())}"
        require(not tasks or asked in tasks, "--instruction", asked, remedy)
        require(bool(asked.strip()), "--instruction", asked, "is empty; say what to describe")
    for name in ("general", "character"):
        value = getattr(options, name)
        remedy = f"is for taggers, and --model {options.model} writes sentences; leave it out"
        require(value is None or kind.is_tags, f"--{name}", value, remedy)
    writes_freely = not kind.is_tags and kind.model is not None
    remedy = f"--model {options.model} generates no tokens; leave it out"
    given = options.max_new_tokens
    require(given is None or writes_freely, "--max-new-tokens", given, remedy)
    remedy = f'must hold {CAPTION} once, such as "{CAPTION}, ink drawing"'
    require(options.template.count(CAPTION) == 1, "--template", options.template, remedy)
    for name, text in (("--template", options.template), ("--trigger-word", options.trigger_word)):
        _check_text(name, text)


def _check_text(name: str, text: str | None) -> None:
    if text is None:
        return
    require("\n" not in text, name, text, "must be one line")
    try:
        check_caption_text(text)
    except CaptionError as error:
        raise ConfigError(f"{name}={text}: {error}") from error


def require_there(chosen: ChosenCaptioner) -> None:
    """Stop where the captioner's files or its library are not on this machine.

    Raises:
        ConfigError: Naming the command that gets them.
    """
    needs = needed_for_captions(chosen)
    libraries = [what for need in needs if (what := need.library_fault()) is not None]
    faults = [
        f"--model={chosen.given}: {what}"
        for need in needs
        if need.model is not None and (what := model_fault(need.model)) is not None
    ]
    fetch = f"get it once, with network: sdlora fetch caption {chosen.given}"
    if lines := [*libraries, *faults, *[fetch] * bool(faults)]:
        raise ConfigError("\n".join(lines))


def _to_caption(options: Namespace, found: FolderPictures, progress: Progress) -> list[Captionable]:
    """The pictures whose caption files will be written; says which are left as they are."""
    changes = options.overwrite or options.append
    option = "--overwrite" if options.overwrite else "--append"
    if found.in_tables and changes:
        raise ConfigError(
            f"{option}: the captions of {len(found.in_tables)} picture(s) stand in a table of "
            f"their folder, which this command does not change ({listed(found.in_tables)}); take "
            f"the table away, or leave {option} out"
        )
    if found.in_tables:
        progress.print(f"{len(found.in_tables)} picture(s) have a caption in a table, and are left")
    have = [each for each in found.pictures if each.has_caption]
    pictures = [each for each in found.pictures if changes or not each.has_caption]
    if have and not changes:
        progress.print(
            f"{len(have)} of {len(found.pictures)} picture(s) have a caption, and are left as they "
            "are (--overwrite or --append changes them)"
        )
    if faults := unwritable(pictures, options.folder):
        _refuse(faults)
    if not pictures:
        progress.print("no picture lacks a caption: nothing to do")
    return pictures


def _refuse(faults: Sequence[Finding]) -> None:
    lines = "".join(f"\n  {finding}" for finding in faults)
    raise DataError(f"{len(faults)} caption file(s) cannot be written:{lines}")


def _captioned(
    options: Namespace,
    chosen: ChosenCaptioner,
    fits: Callable[[str], bool],
    pictures: Sequence[Captionable],
    progress: Progress,
) -> Outcome:
    """Load the captioner and write the files."""
    if chosen.kind.model is None:
        note_on_photos([each.picture for each in pictures], progress)
    compute = found_compute(options.device, options.precision)
    named = ("instruction", "max_new_tokens", "general", "character")
    given = {name: value for name in named if (value := getattr(options, name)) is not None}
    place = chosen.place()
    where = "" if place is None else f" from {place}"
    transformers_logging.disable_progress_bar()  # it would draw over the command's own
    with progress.working(f"loading {chosen.given}"):
        captioner = chosen.kind.loader()(place, compute, Wishes(**given))
    progress.print(f"{len(pictures)} picture(s) by {chosen.given}{where} on {compute.device.type}")
    rules = CaptionRules(
        replaced=tuple(options.replace),
        forbidden=options.forbid,
        template=options.template,
        trigger_word=options.trigger_word,
        is_tags=chosen.kind.is_tags,
    )
    existing = APPEND if options.append else OVERWRITE if options.overwrite else KEEP
    writer = CaptionWriter(captioner, rules, fits, existing, options.batch_size)
    return writer.write(pictures, progress)


def _say(outcome: Outcome, progress: Progress) -> None:
    progress.print(f"{outcome.written} caption(s) written")
    if outcome.unchanged:
        progress.print(f"{outcome.unchanged} had the same text already, or got one meanwhile")
    if names := outcome.shortened:
        progress.print(
            f"{len(names)} caption(s) were cut to what the model's tokenizer takes: {listed(names)}"
        )
