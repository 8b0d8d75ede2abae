"""The command ``sdlora lora compare``: whether two LoRA files are the same update."""

from argparse import Namespace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdlora.adapters.comparison import Compared, compared, total, verdict
from sdlora.adapters.inspection import block_of
from sdlora.commands.lora.plain_files import read_plain
from sdlora.commands.lora.tools import given_base

NUM_SHOWN = 10


def compare(options: Namespace) -> None:
    """Print cosine, norms and difference of two files' updates, by block and by layer."""
    base = given_base(options)
    one, other = (read_plain(options, path, base) for path in options.files)
    layers = compared(one, other)
    whole = total(layers.values())
    console = Console()
    blocks: dict[str, Compared] = {}
    for name, each in layers.items():
        part, _, layer = name.partition(".")
        block = f"{part}.{block_of(layer)}"
        blocks[block] = blocks.get(block, Compared()) + each
    console.print(_table("by block", blocks))
    apart = sorted(layers, key=lambda name: -layers[name].difference)
    shown = apart if options.layers else apart[:NUM_SHOWN]
    title = "by layer" if options.layers else f"the {len(shown)} layers that differ most"
    console.print(_table(title, {name: layers[name] for name in shown}))
    only = [sum(not each.other for each in layers.values()),
            sum(not each.one for each in layers.values())]  # fmt: skip
    console.print(
        f"{verdict(whole)}: cosine {whole.cosine:.6f}, norms {whole.one**0.5:.4g} and "
        f"{whole.other**0.5:.4g}, relative difference {whole.difference:.2g}; {len(layers)} "
        f"layers, {only[0]} only in the first, {only[1]} only in the second",
        highlight=False,
    )


def _table(title: str, rows: dict[str, Compared]) -> Table:
    table = Table("where", "cosine", "norm", "norm", "difference", title=title)
    for name, each in rows.items():
        table.add_row(
            Text(name, overflow="fold"),
            f"{each.cosine:.4f}",
            f"{each.one**0.5:.3g}",
            f"{each.other**0.5:.3g}",
            f"{each.difference:.2g}",
        )
    return table
