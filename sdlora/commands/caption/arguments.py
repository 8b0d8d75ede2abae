"""The command line of ``sdlora caption``: captions for the pictures of a folder."""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sdlora.captioning.captioners import CAPTIONERS
from sdlora.runtime.places import CONF
from sdlora.runtime.program import run_task

BASES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
"""Names of ``conf/model``."""

EXAMPLES = """Pictures with a caption are left as they are, so the same command goes on where it was
stopped. Afterwards it writes sheets of all pictures with their captions; see docs/captions.md.

  sdlora caption photos --model blip --trigger-word ohwx --replace "a picture of="
  sdlora caption photos --model vlm --instruction "Name clothes, pose and background."
  sdlora caption drawings --model wd --forbid solo,simple_background --append
  sdlora fetch caption florence2
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and caption the folder; errors as in ``sdlora train``."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    run_task(lambda: pkgutil.resolve_name("sdlora.commands.caption.steps:caption")(options))


def parser() -> argparse.ArgumentParser:
    """The parser. It imports no slow library."""
    width = max(map(len, CAPTIONERS))
    lines = [
        f"  {each.name:{width}}  {each.what}{f' ({each.model})' if each.model else ''}"
        for each in CAPTIONERS.values()
    ]
    whole = argparse.ArgumentParser(
        prog="sdlora caption",
        description="Write a caption file beside each picture of a folder that has none.",
        epilog="\n".join(["captioners:", *lines, "", EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("folder", type=Path, help="the pictures, with sub-folders")
    _add_model(whole.add_argument_group("the model"))
    _add_text(whole.add_argument_group("the text"))
    _add_files(whole.add_argument_group("the files"))
    return whole


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        default="tiny",
        help=f"{', '.join(CAPTIONERS)}, a Hub id or a folder; default: tiny",
    )
    tasks = CAPTIONERS["florence2"].instructions or ()
    group.add_argument(
        "--instruction",
        help=f"what a VLM is asked about each picture; of Florence-2: {', '.join(tasks)}",
    )
    group.add_argument(
        "--max-new-tokens", type=_count, help="most tokens of an answer; default: 120"
    )
    group.add_argument("--general", type=_share, help="probability of a tag; default: 0.35")
    group.add_argument(
        "--character", type=_share, help="probability of a character's name; default: 0.85"
    )
    group.add_argument("--batch-size", type=_count, default=8, help="pictures at once; default: 8")
    group.add_argument(
        "--device", choices=("auto", "cpu"), default="auto", help="auto: the GPU, if there is one"
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: 16 bits on a CUDA GPU, else fp32",
    )


def _add_text(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--trigger-word", help="put in front of captions that do not have it")
    group.add_argument("--template", default="{caption}", help='such as "{caption}, ink drawing"')
    group.add_argument(
        "--replace",
        type=_pair,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help='whole words, any letter case; may be given again: "a picture of="',
    )
    group.add_argument(
        "--forbid",
        type=_words,
        default=(),
        metavar="WORD,WORD",
        help="left out: whole tags; of sentences these words alone",
    )
    group.add_argument(
        "--base",
        choices=BASES,
        help="the model that will be trained: captions are cut to what its tokenizer takes; "
        "default: tiny for --model tiny, else sd15",
    )


def _add_files(group: argparse._ArgumentGroup) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument("--overwrite", action="store_true", help="replace captions that are there")
    how.add_argument("--append", action="store_true", help="add to captions that are there")
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="whether pictures that get no caption end the command with 2, after all others",
    )
    group.add_argument(
        "--sheet", type=Path, help="folder of the sheets; default: outputs/captions/NAME"
    )
    group.add_argument("--no-sheet", action="store_true", help="write captions alone")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= 1")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number in (0, 1), such as 0.35")
    return value


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old.strip() or not equals:
        raise argparse.ArgumentTypeError(f"{text}: must be OLD=NEW, such as 'a picture of='")
    return old.strip(), new.strip()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().replace("_", " ") for word in text.split(",") if word.strip())
