"""Training of the attribute classifier, on clean and degraded drawings."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sdlora.runtime.randomness import generator
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.portraits import ATTRIBUTE_VALUES, HELD_OUT_SEEDS, TRAIN_SEEDS, random_scene
from sdlora.world.training.degrade import degrade
from sdlora.world.training.fitting import WORK_FOLDER, Fit, Recipe, fit
from sdlora.world.training.many_portraits import cached, to_tensor

NUM_PICTURES = 12_000
RECIPE = Recipe(num_steps=600, batch_size=64, max_lr=3e-3, weight_decay=1e-2)


def labels(seeds: list[int]) -> dict[str, Tensor]:
    """Index of the value in each portrait, ``[N]`` int64, for each attribute."""
    seen = [random_scene(seed).attributes() for seed in seeds]
    return {
        name: torch.tensor([values.index(attributes[name]) for attributes in seen])
        for name, values in ATTRIBUTE_VALUES.items()
    }


class AttributesFit(Fit):
    """Training on the sum of the cross-entropies of all attributes."""

    def __init__(self, pixels: Tensor, targets: dict[str, Tensor], recipe: Recipe = RECIPE) -> None:
        super().__init__(recipe)
        torch.manual_seed(recipe.seed)
        self.net = AttributeClassifier()
        self.pixels, self.targets = pixels, targets

    def training_step(self, indices: Tensor, step: int) -> Tensor:
        """Loss on the pictures at ``indices``, ``[B]``."""
        x = to_tensor(self.pixels[indices].numpy())
        logits = self.net(degrade(x, generator(self.recipe.seed, "degrade", step)))
        losses = [F.cross_entropy(logits[k], v[indices]) for k, v in self.targets.items()]
        loss = torch.stack(losses).sum()
        self.print_values({"loss": loss.detach()})
        return loss


def accuracy(net: AttributeClassifier, pixels: Tensor, seeds: list[int]) -> dict[str, float]:
    """Share of right answers for each attribute, 0 to 1, on the portraits of ``seeds``.

    Args:
        net: The classifier.
        pixels: ``[N, 3, 64, 64]`` in [-1, 1].
        seeds: Seeds of the N portraits.
    """
    named = [answer for part in pixels.split(100) for answer in net.predict(part)]
    truth = [random_scene(seed).attributes() for seed in seeds]
    return {
        name: sum(a[name] == b[name] for a, b in zip(named, truth, strict=True)) / len(seeds)
        for name in ATTRIBUTE_VALUES
    }


def train_attributes(folder: Path, recipe: Recipe = RECIPE) -> dict[str, float]:
    """Train the classifier and write it to ``folder``.

    Returns:
        The share of right answers on unseen drawings, for each attribute.
    """
    seeds = list(TRAIN_SEEDS[:NUM_PICTURES])
    pixels = cached(WORK_FOLDER, "train", seeds)
    module = AttributesFit(torch.from_numpy(pixels), labels(seeds), recipe)
    seconds = fit(module, len(pixels), "attributes")
    unseen = list(HELD_OUT_SEEDS[:500])
    net = module.net.eval()
    right = accuracy(net, to_tensor(cached(WORK_FOLDER, "held_out", unseen)), unseen)
    print(json.dumps({**right, "seconds": seconds}), flush=True)
    net.save_pretrained(folder)
    return right
