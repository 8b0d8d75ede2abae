"""Arrays of many portraits: drawn by two processes, cached on disk."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdlora.runtime.files import sha256
from sdlora.runtime.places import PACKAGE
from sdlora.world.portraits import portrait

_SIZE_PX = 64
_DRAWN_BY = ("canvas.py", "drawing.py", "hair.py", "head.py", "scenes.py")


def _pixels(seed: int, identity_seed: int | None) -> np.ndarray:
    return np.asarray(portrait(seed, identity_seed, _SIZE_PX).image)


def draw_many(
    seeds: list[int], identity_seeds: list[int] | None = None, num_processes: int = 2
) -> np.ndarray:
    """Draw one portrait for each seed.

    Args:
        seeds: Portrait seeds.
        identity_seeds: Identity seed of each portrait; None: by ``seeds``.
        num_processes: 1 draws in this process.

    Returns:
        Pixels 0-255, ``[N, 64, 64, 3]`` uint8.
    """
    people = identity_seeds if identity_seeds is not None else [None] * len(seeds)
    if num_processes == 1:
        return np.stack([_pixels(s, p) for s, p in zip(seeds, people, strict=True)])
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        return np.stack(list(pool.map(_pixels, seeds, people, chunksize=100)))


def cached(
    folder: Path, name: str, seeds: list[int], identity_seeds: list[int] | None = None
) -> np.ndarray:
    """Draw the portraits once, and read them from ``folder`` afterwards.

    Args:
        folder: Holds ``<name>.npy`` and its sources: the seeds and the drawing code's hash.
        name: Stem of the two files.
        seeds: Portrait seeds.
        identity_seeds: As in :func:`draw_many`.

    Returns:
        Pixels 0-255, ``[N, 64, 64, 3]`` uint8.
    """
    pixels_file, seeds_file = folder / f"{name}.npy", folder / f"{name}.json"
    code = [sha256(PACKAGE / "world" / name) for name in _DRAWN_BY]
    wanted = json.dumps([code, seeds, identity_seeds])
    if seeds_file.exists() and seeds_file.read_text(encoding="utf-8") == wanted:
        return np.load(pixels_file)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = draw_many(seeds, identity_seeds)
    np.save(pixels_file, pixels)
    seeds_file.write_text(wanted, encoding="utf-8")
    return pixels


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn pixels 0-255 ``[N, H, W, 3]`` uint8 into ``[N, 3, H, W]`` float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
