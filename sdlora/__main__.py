"""The console command ``sdlora COMMAND``, which works from any folder."""

import argparse
import pkgutil
import sys

from sdlora import __version__
from sdlora.runtime.program import require_command, run_task

COMMANDS = {
    "train": ("sdlora.commands.train.training_door:main", "fine-tune a model on your pictures"),
    "evaluate": ("sdlora.commands.evaluate.scoring_door:main", "score a LoRA beside the bare base"),
    "fetch": ("sdlora.commands.fetch.fetching_door:main", "get what a run needs from elsewhere"),
    "caption": ("sdlora.commands.caption.arguments:main", "write captions beside your pictures"),
    "lora": ("sdlora.commands.lora.arguments:main", "look at LoRA files, and change them"),
}
"""Name -> function (imported when it is run), help line."""


def main() -> None:
    """Run the command that the first word names, with the other words as its arguments."""
    words = sys.argv[1:]
    run_task(lambda: require_command("sdlora", words, COMMANDS))
    name = parser().parse_args(words[:1]).command
    sys.argv = [f"sdlora {name}", *words[1:]]
    pkgutil.resolve_name(COMMANDS[name][0])()


def parser() -> argparse.ArgumentParser:
    """Parser of the first word. It imports no slow library."""
    lines = [f"  {name:10}{help_line}" for name, (_, help_line) in COMMANDS.items()]
    whole = argparse.ArgumentParser(
        prog="sdlora",
        description="LoRAs from captioned pictures, chosen by measurement.",
        epilog="\n".join(["commands:", *lines, "", "sdlora COMMAND --help lists its arguments."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("command", choices=tuple(COMMANDS))
    whole.add_argument("--version", action="version", version=f"sdlora {__version__}")
    return whole


if __name__ == "__main__":
    main()
