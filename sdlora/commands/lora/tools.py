"""The commands of ``sdlora lora`` on LoRA files, one function each."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sdlora.adapters import arithmetic
from sdlora.adapters.arithmetic import Cut, Energy
from sdlora.adapters.file_keys import Layers
from sdlora.adapters.lora_file import LoraFile, from_layers
from sdlora.adapters.lora_places import Layout
from sdlora.assembly.device import DTYPES
from sdlora.commands.lora.base import base_source, fresh_base, words_of
from sdlora.commands.lora.plain_files import MADE_BY, read_files, read_plain
from sdlora.commands.train.lora_header import base_fields, text_width
from sdlora.config.rules import ConfigError
from sdlora.diffusion.schedule import schedule_of
from sdlora.export.extraction import Difference, extract, prove_extraction
from sdlora.export.lora_files import (
    OF_THE_WEIGHTS,
    FreshBase,
    header,
    prove_on_base,
    shared_header,
    write_lora,
)
from sdlora.export.merging import SINGLE_FILE, check_merged_out, merged_pipeline, write_merged
from sdlora.models.families import description_of
from sdlora.models.source import resolve
from sdlora.runtime.progress import Progress

PROGRAMS: dict[str, Layout] = {
    "comfyui": "kohya",
    "a1111": "kohya",
    "invokeai": "kohya",
    "sd-scripts": "kohya",
    "diffusers": "diffusers",
    "peft": "peft",
}
"""Program -> the layout that it reads."""


def convert(options: Namespace) -> None:
    """Write a LoRA in another layout."""
    refuse_existing(options)
    cut = Cut(options.r, options.keep) if options.r or options.keep else None
    lora = read_plain(options, options.file, given_base(options), cut)
    _write(options, lora, options.layout or PROGRAMS[options.to])


def resize(options: Namespace) -> None:
    """Write a LoRA of a smaller rank."""
    refuse_existing(options)
    lora = read_plain(options, options.file, given_base(options))
    parts = _cut(lora, options)
    what = f"resize {options.file.name} {_cut_words(options)}"
    smaller = from_layers(
        options.file, parts, {**header(lora.metadata, OF_THE_WEIGHTS), MADE_BY: what}, lora.layout
    )
    _write(options, smaller, options.layout or lora.layout)


def add(options: Namespace) -> None:
    """Write the weighted sum of several LoRAs."""
    refuse_existing(options)
    weights = options.weights or [1.0] * len(options.files)
    if len(weights) != len(options.files):
        raise ConfigError(
            f"--weights={','.join(f'{w:g}' for w in weights)}: {len(weights)} numbers for "
            f"{len(options.files)} files; give one for each"
        )
    base = given_base(options)
    loras = [read_plain(options, path, base) for path in options.files]
    parts = arithmetic.added(loras, weights)
    if options.blocks:
        parts, unused = arithmetic.scaled_layers(parts, options.blocks)
        if unused:
            raise ConfigError(
                f"--blocks {unused[0]}: matches no layer of the files; give a part of a layer's "
                "name, such as up_blocks or mid_block.*.attn1"
            )
    terms = [f"{w:g} x {path.name}" for w, path in zip(weights, options.files, strict=True)]
    blocks = "".join(f" --blocks {name}={w:g}" for name, w in (options.blocks or {}).items())
    metadata = {**shared_header(loras), MADE_BY: f"add {' + '.join(terms)}{blocks}"}
    total = from_layers(options.out, parts, metadata, loras[0].layout)
    if options.r or options.keep:
        total = from_layers(options.out, _cut(total, options), metadata, loras[0].layout)
    _write(options, total, options.layout or loras[0].layout)


def extract_difference(options: Namespace) -> None:
    """Write the LoRA that approximates the difference of two models."""
    refuse_existing(options)
    source = base_source(options)
    base, tuned = _base(options), _base(options, "--tuned")
    with Progress() as progress:
        before, after = base(), tuned().parts
        predicted = schedule_of(before.noise_schedule_config).prediction_type
        found = extract(after, before.parts, Cut(options.r, options.keep), progress)
        layers = {part: each.layers for part, each in found.items()}
        metadata = {
            **base_fields(
                _shown(options.base), description_of(source.family), text_width(before), predicted
            ),
            MADE_BY: f"extract from {Path(options.tuned).name} {_cut_words(options)}",
        }
        lora = from_layers(options.out, layers, metadata, options.layout)

        def prove(path: Path) -> dict[str, float]:
            return prove_extraction(path, options.layout, base, after, found)

        with progress.working("Writing, and loading back"):
            errors = write_lora(options.out, lora, options.layout, prove)
        _say_left_out(found, progress)
        progress.print(f"written and proved: {options.out} ({options.layout})")
        for part, error in errors.items():
            progress.print(
                f"  {part}: {len(layers[part])} layers; merged into the base, {error:.2%} of the "
                "difference is missing, as expected from the discarded singular values"
            )


def merge(options: Namespace) -> None:
    """Write a base with LoRAs merged into its weights."""
    refuse_existing(options)
    scales = options.scale or [1.0]
    scales = scales * len(options.files) if len(scales) == 1 else scales
    if len(scales) != len(options.files):
        raise ConfigError(
            f"--scale={','.join(f'{s:g}' for s in scales)}: {len(scales)} numbers for "
            f"{len(options.files)} files; give one, or one for each"
        )
    source, base = base_source(options), _base(options)
    check_merged_out(options.out, description_of(source.family))
    loras = read_files(options, options.files)
    # flow models are released in bf16, whose range fp16 does not have
    dtype = options.dtype or ("bf16" if description_of(source.family).is_flow else "fp16")
    with words_of("--base"):
        folder = resolve(source)
    with Progress() as progress:
        with progress.working("Merging"):
            pipeline, worst = merged_pipeline(base, loras, scales)
        with progress.working("Writing, and loading back"):
            out = write_merged(options.out, pipeline, DTYPES[dtype], folder)
        reader = "from_single_file" if out.suffix == SINGLE_FILE else "from_pretrained"
        progress.print(
            f"written and proved: {out}\n"
            f"  outputs of LoRA beside base and merged differ by {worst:.2g} at most (float32)\n"
            f"  {reader} gives every weight back to the bit ({dtype})"
        )


def _write(options: Namespace, lora: LoraFile, layout: Layout) -> None:
    """Write and prove a file, and print the result."""
    base = given_base(options)

    def prove(path: Path) -> dict[str, float]:
        return {} if base is None else prove_on_base(path, lora, layout, base)

    with Progress() as progress:
        with progress.working("Writing, and loading back"):
            differences = write_lora(options.out, lora, layout, prove)
        progress.print(
            f"written and proved: {options.out} ({layout}); read back, it holds the same tensors "
            "and alphas"
        )
        for what, difference in differences.items():
            progress.print(f"  {what}: outputs on the base differ by {difference:.2g} at most")


def given_base(options: Namespace) -> FreshBase | None:
    """The base of ``--base``; ``None``: not given."""
    return _base(options) if options.base else None


def _base(options: Namespace, option: str = "--base") -> FreshBase:
    for logging in (transformers_logging, diffusers_logging):  # over the command's own bars
        logging.disable_progress_bar()
    return fresh_base(base_source(options, option), option)


def refuse_existing(options: Namespace) -> None:
    """Refuse an output that is there, without ``--overwrite``.

    Raises:
        ConfigError: Naming it.
    """
    if options.out.exists() and not options.overwrite:
        raise ConfigError(f"out={options.out}: exists already; choose another, or use --overwrite")


def _cut_words(options: Namespace) -> str:
    given = {"--r": options.r, "--keep": options.keep}
    return " ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)


def _cut(lora: LoraFile, options: Namespace) -> dict[str, Layers]:
    """The resized LoRA; prints the lost share."""
    with Progress() as progress:
        parts, energies = arithmetic.resized(lora, Cut(options.r, options.keep), progress)
        _say_energy(energies, parts, progress)
    return parts


def _say_energy(
    energies: Mapping[str, Energy], parts: Mapping[str, Layers], progress: Progress
) -> None:
    for part, energy in energies.items():
        ranks = sorted({layer["A"].shape[0] for layer in parts[part].values()})
        shown_ranks = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        progress.print(
            f"{part}: rank {shown_ranks}; {1 - energy.relative_error**2:.2%} of the squared norm "
            f"is kept, relative error {energy.relative_error:.2%}"
        )


def _say_left_out(found: Mapping[str, Difference], progress: Progress) -> None:
    for part, each in found.items():
        if each.left_out:
            progress.print(
                f"note: {part}: {len(each.left_out)} weights that a LoRA cannot hold differ "
                f"(norms, biases, embeddings), such as {each.left_out[0]}; they stay the base's"
            )


def _shown(base: str) -> str:
    """A base for a header: a Hub id, or the name alone of what is on this machine."""
    return Path(base).name if Path(base).exists() else base
