"""``python -m sdlora.world.examples``: draws the captioned folder and prompts under examples/."""

import argparse
from pathlib import Path

from sdlora.files import atomic_path, write_text
from sdlora.world.portraits import (
    EXAMPLE_IDENTITY_SEED,
    HELD_OUT_SEEDS,
    caption,
    portrait,
    random_scene,
)

NUM_TRAINING, NUM_HELD_OUT, NUM_PROMPTS = 24, 12, 25
# Scenes that no measurement of the base uses: the far end of the held-out range.
_SCENES = iter(HELD_OUT_SEEDS[-1000:])
TRAINING_SEEDS = [next(_SCENES) for _ in range(NUM_TRAINING)]
HELD_OUT_SCENE_SEEDS = [next(_SCENES) for _ in range(NUM_HELD_OUT)]
PROMPT_SEEDS = [next(_SCENES) for _ in range(NUM_PROMPTS)]


def _write_portraits(folder: Path, seeds: list[int]) -> None:
    for number, seed in enumerate(seeds, start=1):
        drawn = portrait(seed, identity_seed=EXAMPLE_IDENTITY_SEED)
        path = folder / f"portrait_{number:02d}.png"
        with atomic_path(path) as temporary:
            drawn.image.save(temporary)
        write_text(path.with_suffix(".txt"), drawn.caption + "\n")


def write_examples(folder: Path) -> None:
    """Draw one person whom no training has seen, and say what to draw of them.

    Args:
        folder: Gets ``portraits/`` (24 pictures with captions), ``portraits/held_out/`` (12 others)
            and ``prompts.txt`` (25 lines).
    """
    _write_portraits(folder / "portraits", TRAINING_SEEDS)
    _write_portraits(folder / "portraits" / "held_out", HELD_OUT_SCENE_SEEDS)
    prompts = [caption(random_scene(seed), seed) for seed in PROMPT_SEEDS]
    write_text(folder / "prompts.txt", "\n".join(prompts) + "\n")


def main() -> None:
    """Write the examples to the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m sdlora.world.examples", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "examples")
    write_examples(parser.parse_args().out)


if __name__ == "__main__":
    main()
