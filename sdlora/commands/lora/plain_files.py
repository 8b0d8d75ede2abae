"""LoRA files given to ``sdlora lora`` as plain LoRAs, with what is said of the conversion."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from sdlora.adapters.arithmetic import Cut
from sdlora.adapters.file_content import SKIP_UNKNOWN, refuse_other_family
from sdlora.adapters.formats import read_lora
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.plain_form import PlainForm, plain_form
from sdlora.adapters.spec import LoraError, listing
from sdlora.commands.lora.base import base_source
from sdlora.export.lora_files import OF_THE_WEIGHTS, FreshBase, header
from sdlora.runtime.progress import Progress

MADE_BY = "sdlora.made_by"
"""Header entry of the command that made the weights from others."""

OF_THE_KIND = ("ss_network_module",)
"""Header entries that are wrong for weights that became a plain LoRA."""


def read_files(options: Namespace, paths: list[Path]) -> list[LoraFile]:
    """Read LoRA files, and print what is left out of each by ``--skip-unknown``.

    Raises:
        LoraError: If one cannot be read, holds unknown keys, or is of another family than the base
            of the command.
    """
    loras = []
    family = base_source(options).family if options.base else None
    with Progress(enabled=False) as progress:
        for path in paths:
            lora = read_lora(path, skip_unknown=options.skip_unknown)
            if family is not None:
                refuse_other_family(path, lora, family)
            for line in lora.left_out:
                progress.print(f"left out of {path.name}: {line}")
            loras.append(lora)
    return loras


def read_plain(
    options: Namespace, path: Path, base: FreshBase | None = None, cut: Cut | None = None
) -> LoraFile:
    """Read a LoRA file of any kind as a plain LoRA, and print how near it is.

    Args:
        options: Its ``skip_unknown``.
        path: The file.
        base: Loads the base, which some kinds need.
        cut: What an SVD keeps.

    Raises:
        LoraError: If it cannot be read, needs a base, or holds what no plain LoRA holds.
    """
    (lora,) = read_files(options, [path])
    if not lora.updates:
        if cut is not None:
            raise LoraError(
                f"{path}: is plain LoRA already, of which convert cuts nothing by --r or --keep; "
                "use sdlora lora resize"
            )
        return lora
    needs_base = any(u.needs_base for each in lora.updates.values() for u in each.values())
    parts = base().parts if base is not None and needs_base else None
    try:
        found = plain_form(lora, cut, parts)
    except LoraError as error:
        raise LoraError(f"{path}: {error}") from error
    if found.not_held and not options.skip_unknown:
        raise LoraError(
            f"{path}: {len(found.not_held)} changes that no plain LoRA holds"
            f"{listing(found.not_held)}\nMerge the file into its base instead, or leave them out "
            f"with {SKIP_UNKNOWN.split()[0]}."
        )
    if not found.lora.states:
        raise LoraError(f"{path}: holds no layer that a plain LoRA could hold; merge it instead")
    _say(found, path)
    dropped = header(lora.metadata, (*OF_THE_WEIGHTS, *OF_THE_KIND))
    made = f"plain form of {path.name}"
    return replace(found.lora, metadata={**dropped, MADE_BY: made})


def _say(found: PlainForm, path: Path) -> None:
    with Progress(enabled=False) as progress:
        for kind, count in found.exact.items():
            progress.print(f"{path.name}: {count} layers of {kind} became plain LoRA exactly")
        for kind, energy in found.by_svd.items():
            progress.print(
                f"{path.name}: {kind} became plain LoRA by SVD: {energy.relative_error:.2%} of its "
                "update is missing"
            )
        for line in found.not_held:
            progress.print(f"left out of {path.name}: {line}")
