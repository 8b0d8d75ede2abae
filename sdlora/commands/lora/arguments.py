"""The command line of ``sdlora lora``: inspect and change LoRA files, export a run again."""

import argparse
import math
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sdlora.runtime.program import require_command, run_task

LAYOUTS = ("diffusers", "kohya", "peft")
PROGRAMS = ("comfyui", "a1111", "invokeai", "sd-scripts", "diffusers", "peft")

OF_BASE = "needed by kinds that depend on its weights; outputs are compared on it: "
NUMBERS = ("--weights", "--scale")
"""Options whose value may begin with a minus sign."""

EPILOG = """each file is loaded back before it replaces another; see docs/files.md.

  sdlora lora inspect lora.safetensors
  sdlora lora convert lora.safetensors for_comfyui.safetensors --layout kohya
  sdlora lora resize lora.safetensors --r 8 --out small.safetensors
  sdlora lora add a.safetensors b.safetensors --weights 0.7,0.3 --out both.safetensors
  sdlora lora compare a.safetensors b.safetensors
  sdlora lora merge lora.safetensors --base sd15 --out merged.safetensors
  sdlora lora extract --tuned FOLDER --base sd15 --r 16 --out lora.safetensors
  sdlora lora run outputs/2026-01-31/12-00-00 --checkpoint 150
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run one command; errors as in ``sdlora train``."""
    words = sys.argv[1:] if arguments is None else arguments
    run_task(lambda: require_command("sdlora lora", words, COMMANDS))
    options = parser().parse_args(_with_numbers(words))
    run_task(lambda: pkgutil.resolve_name(options.does)(options))


def _with_numbers(words: Sequence[str]) -> list[str]:
    """A command line in which numbers below zero are no options: ``--weights=-0.5,1``."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in NUMBERS and word[:1] == "-" and word[1:2] in ".0123456789":
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def parser() -> argparse.ArgumentParser:
    """The parser. It imports no slow library."""
    whole = argparse.ArgumentParser(
        prog="sdlora lora",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (does, help_line, add_arguments) in COMMANDS.items():
        one = commands.add_parser(name, help=help_line, description=help_line)
        one.set_defaults(does=does)
        add_arguments(one)
    return whole


def _inspect(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path, help="a .safetensors file, or an export or peft folder")
    one.add_argument("--weights", action="store_true", help="read them too: norms by block, NaN")
    one.add_argument("--json", action="store_true", help="as JSON, with the whole header")


def _convert(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path)
    one.add_argument("out", type=Path, help="a .safetensors file; for peft a folder")
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument("--layout", choices=LAYOUTS)
    how.add_argument("--to", choices=PROGRAMS, help="the layout that a program reads")
    _cut(one, required=False)
    _base(one, OF_BASE)
    _skip_unknown(one)
    _overwrite(one)


def _resize(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path)
    _cut(one, required=True)
    _out(one)
    _base(one, OF_BASE)
    _skip_unknown(one)


def _add(one: argparse.ArgumentParser) -> None:
    one.add_argument("files", type=Path, nargs="+", metavar="FILE")
    one.add_argument(
        "--weights", type=_numbers, metavar="W,W", help="one for each file, else 1; -1 subtracts"
    )
    one.add_argument(
        "--blocks",
        type=_factors,
        metavar="PATTERN=W,...",
        help="factors of some layers of the sum, such as down_blocks=0.5,mid_block=0",
    )
    _cut(one, required=False)
    _out(one)
    _base(one, OF_BASE)
    _skip_unknown(one)


def _merge(one: argparse.ArgumentParser) -> None:
    one.add_argument("files", type=Path, nargs="+", metavar="FILE")
    one.add_argument("--scale", type=_numbers, metavar="S[,S]", help="strength; 1, as trained")
    one.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a folder (diffusers), or FILE.safetensors (the original layout, for ComfyUI, A1111)",
    )
    one.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        help="of the written weights: fp16; of Z-Image and FLUX.2 klein bf16",
    )
    _base(one, "", required=True)
    _skip_unknown(one)
    _overwrite(one)


def _extract(one: argparse.ArgumentParser) -> None:
    one.add_argument("--tuned", required=True, help="a whole model, given as --base is")
    _cut(one, required=True)
    _out(one, layout="diffusers")
    _base(one, "what it was tuned from: ", required=True)


def _compare(one: argparse.ArgumentParser) -> None:
    one.add_argument("files", type=Path, nargs=2, metavar="FILE")
    one.add_argument("--layers", action="store_true", help="every layer, not the most different")
    _base(one, OF_BASE)
    _skip_unknown(one)


def _fix(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path)
    one.add_argument("out", type=Path, help="a .safetensors file")
    one.add_argument("--alpha", type=_positive, help="alpha of every layer; else only bad ones go")
    one.add_argument("--layout", choices=LAYOUTS, help="default: that of the file")
    _overwrite(one)


def _export_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", type=Path, help="the folder that training wrote")
    one.add_argument("--checkpoint", default="chosen", help="chosen, last, or a step number")
    one.add_argument("--out", type=Path, help="folder; else RUN/export_CHECKPOINT")
    one.add_argument("--licence", help="for the model card; else the run's export.licence")
    _overwrite(one)


COMMANDS = {
    "inspect": (
        "sdlora.commands.lora.inspect_file:inspect_file",
        "the content of a file",
        _inspect,
    ),
    "convert": ("sdlora.commands.lora.tools:convert", "the same LoRA in another layout", _convert),
    "resize": ("sdlora.commands.lora.tools:resize", "a smaller rank, by SVD", _resize),
    "add": ("sdlora.commands.lora.tools:add", "the weighted sum of several", _add),
    "compare": (
        "sdlora.commands.lora.compare:compare",
        "whether two files are the same update",
        _compare,
    ),
    "fix": ("sdlora.commands.lora.fix:fix", "a file without NaN, bad alphas, foreign keys", _fix),
    "merge": ("sdlora.commands.lora.tools:merge", "LoRAs into a base's own weights", _merge),
    "extract": (
        "sdlora.commands.lora.tools:extract_difference",
        "the LoRA between two models, by SVD",
        _extract,
    ),
    "run": (
        "sdlora.commands.lora.run_export:export_run",
        "a run's checkpoint in all layouts",
        _export_run,
    ),
}
"""Name -> function (imported when it is run), help line, what adds its arguments."""


def _cut(one: argparse.ArgumentParser, required: bool) -> None:
    how = one.add_mutually_exclusive_group(required=required)
    how.add_argument("--r", type=_rank, help="rank of each layer, at most")
    how.add_argument(
        "--keep",
        type=_share,
        help="share of the squared singular values to keep in each layer; ranks then differ",
    )


def _out(one: argparse.ArgumentParser, layout: str | None = None) -> None:
    one.add_argument(
        "--out", type=Path, required=True, help="a .safetensors file; for peft a folder"
    )
    default = layout or "that of the first file"
    one.add_argument("--layout", choices=LAYOUTS, default=layout, help=f"default: {default}")
    _overwrite(one)


def _skip_unknown(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--skip-unknown",
        action="store_true",
        help="leave out, by name, what a file holds that is of no adapter or that fits nothing",
    )


def _overwrite(one: argparse.ArgumentParser) -> None:
    one.add_argument("--overwrite", action="store_true", help="replace what is there")


def _base(one: argparse.ArgumentParser, purpose: str, required: bool = False) -> None:
    what = (
        "a name of conf/model (tiny, sd15, ...), a diffusers folder, a checkpoint in one "
        ".safetensors file or a Hub id"
    )
    one.add_argument("--base", required=required, help=purpose + what)
    one.add_argument("--family", help="of the base: sd, sdxl or kolors; else as its files say")
    one.add_argument(
        "--config",
        help="Hub id or folder with the configs and tokenizers of a checkpoint in one file, as "
        "model.config in training",
    )
    one.add_argument("--vae", help="another VAE: a Hub id, folder or .safetensors file")
    one.add_argument("--variant", help="weight file variant of a folder or Hub id, such as fp16")
    one.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction", "sample"),
        help="what the base predicts, where its files do not say it or contradict themselves",
    )
    one.add_argument(
        "--zero-terminal-snr",
        type=_truth,
        metavar="{true,false}",
        help="whether the base's noise ends in pure noise, where its files do not say it",
    )


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text}: must be true or false")
    return text.lower() == "true"


def _rank(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= 1")
    return int(text)


def _share(text: str) -> float:
    values = _numbers(text)
    if len(values) != 1 or not 0 < values[0] <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be in (0, 1], such as 0.9")
    return values[0]


def _positive(text: str) -> float:
    values = _numbers(text)
    if len(values) != 1 or values[0] <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a number > 0")
    return values[0]


def _factors(text: str) -> dict[str, float]:
    found = {}
    for item in text.split(","):
        pattern, equals, value = item.rpartition("=")
        if not pattern or not equals:
            raise argparse.ArgumentTypeError(f"{item}: must be PATTERN=W, such as up_blocks=0.5")
        found[pattern] = _numbers(value)[0]
    return found


def _numbers(text: str) -> list[float]:
    try:
        values = [float(item) for item in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(math.isfinite(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text}: must be numbers, such as 0.7,0.3")
    return values
