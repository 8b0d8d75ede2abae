"""``python -m sdlora.world.examples``: drawing of the folders and prompts of examples/."""

import argparse
from pathlib import Path

from sdlora.runtime.files import atomic_path, write_text
from sdlora.runtime.places import shipped
from sdlora.world.ink import InkPen
from sdlora.world.portraits import (
    EXAMPLE_IDENTITY_SEED,
    HELD_OUT_SEEDS,
    caption,
    draw,
    portrait,
    random_identity,
    random_scene,
)

NUM_TRAINING, NUM_HELD_OUT, NUM_PROMPTS = 24, 12, 25
NUM_INK, NUM_INK_HELD_OUT = 40, 24
# Scenes that no measurement of the base uses: the far end of the held-out range.
_SCENES = iter(HELD_OUT_SEEDS[-1000:])
TRAINING_SEEDS = [next(_SCENES) for _ in range(NUM_TRAINING)]
HELD_OUT_SCENE_SEEDS = [next(_SCENES) for _ in range(NUM_HELD_OUT)]
PROMPT_SEEDS = [next(_SCENES) for _ in range(NUM_PROMPTS)]
INK_SEEDS = [next(_SCENES) for _ in range(NUM_INK)]
INK_HELD_OUT_SEEDS = [next(_SCENES) for _ in range(NUM_INK_HELD_OUT)]


def _write_portraits(folder: Path, seeds: list[int]) -> None:
    for number, seed in enumerate(seeds, start=1):
        drawn = portrait(seed, identity_seed=EXAMPLE_IDENTITY_SEED)
        path = folder / f"portrait_{number:02d}.png"
        with atomic_path(path) as temporary:
            drawn.image.save(temporary)
        write_text(path.with_suffix(".txt"), drawn.caption + "\n")


def _write_ink(folder: Path, seeds: list[int]) -> None:
    """As many people as pictures, so that only the pen is common to them."""
    for number, seed in enumerate(seeds, start=1):
        image = draw(random_identity(seed), random_scene(seed), pen=InkPen())
        with atomic_path(folder / f"ink_{number:02d}.png") as temporary:
            image.save(temporary)


def write_examples(folder: Path) -> None:
    """Draw one person outside all training seeds and a style, and write prompts for both.

    Args:
        folder: Gets ``portraits/`` (24 pictures with captions), ``portraits/held_out/`` (12
            others), ``ink/`` (40 pictures without captions, of 40 people), ``ink/held_out/`` (24 of
            24 others) and ``prompts.txt`` (25 lines).
    """
    _write_portraits(folder / "portraits", TRAINING_SEEDS)
    _write_portraits(folder / "portraits" / "held_out", HELD_OUT_SCENE_SEEDS)
    _write_ink(folder / "ink", INK_SEEDS)
    _write_ink(folder / "ink" / "held_out", INK_HELD_OUT_SEEDS)
    prompts = [caption(random_scene(seed), seed) for seed in PROMPT_SEEDS]
    write_text(folder / "prompts.txt", "\n".join(prompts) + "\n")


def main() -> None:
    """Write the examples to the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m sdlora.world.examples", description=__doc__)
    parser.add_argument("--out", type=Path, default=shipped("examples"))
    write_examples(parser.parse_args().out)


if __name__ == "__main__":
    main()
