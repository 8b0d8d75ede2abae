"""``python -m sdlora.world.training vae|clip|face|attributes|language``: training of a net."""

import argparse
import dataclasses
import importlib
from pathlib import Path

import torch

from sdlora.runtime.places import ASSETS

TRAININGS = {
    "vae": ("sdlora.world.training.vae", "train_vae"),
    "clip": ("sdlora.world.training.clip_model", "train_clip"),
    "language": ("sdlora.world.training.language_model", "train_language_model"),
    "face": ("sdlora.world.training.face_embedder", "train_face"),
    "attributes": ("sdlora.world.training.attribute_classifier", "train_attributes"),
}
FOLDERS = {
    "vae": "tiny-sd/vae",
    "clip": "tiny-clip",
    "language": "tiny-flow/text_encoder",
    "face": "tiny-face",
    "attributes": "tiny-attributes",
}


def main() -> None:
    """Train the net that the command line names, and write it to the assets."""
    parser = argparse.ArgumentParser(prog="python -m sdlora.world.training", description=__doc__)
    parser.add_argument("net", choices=list(FOLDERS))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ASSETS, help="the assets' folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.out / FOLDERS[options.net]
    training, function = TRAININGS[options.net]
    module = importlib.import_module(training)
    recipe = dataclasses.replace(module.RECIPE, num_steps=options.steps or module.RECIPE.num_steps)
    getattr(module, function)(folder, recipe)


if __name__ == "__main__":
    main()
