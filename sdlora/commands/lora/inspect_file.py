"""The command ``sdlora lora inspect``: the content of a LoRA file, by its header."""

from argparse import Namespace

from rich.console import Console

from sdlora.adapters.inspection import inspect_lora
from sdlora.export.summary import as_json, shown


def inspect_file(options: Namespace) -> None:
    """Print the content of a file; its weights, which bring torch, only if asked."""
    facts = inspect_lora(options.file)
    weights = None
    if options.weights:
        from sdlora.adapters.weight_inspection import inspect_weights

        weights = inspect_weights(options.file)
    if options.json:
        print(as_json(facts, weights))
    else:
        Console().print(shown(facts, weights))
