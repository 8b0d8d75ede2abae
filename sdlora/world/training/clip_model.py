"""Training of the image-text scorer, a small CLIPModel, on drawings and captions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from sdlora.runtime.files import write_json
from sdlora.runtime.places import ASSETS
from sdlora.runtime.randomness import generator
from sdlora.world.portraits import (
    ATTRIBUTE_VALUES,
    HELD_OUT_SEEDS,
    TRAIN_SEEDS,
    Scene,
    caption,
    random_scene,
)
from sdlora.world.training.attribute_classifier import labels
from sdlora.world.training.base_outline import WIDTH, text_config
from sdlora.world.training.degrade import degrade
from sdlora.world.training.face_embedder import NUM_PEOPLE, PICTURES_EACH, people_pictures
from sdlora.world.training.fitting import WORK_FOLDER, Fit, Recipe, fit
from sdlora.world.training.many_portraits import cached, to_tensor

RECIPE = Recipe(num_steps=1_000, batch_size=64, max_lr=1.5e-3, weight_decay=0.05)
# Of the processor: pixels 0-1 to [-1, 1].
_MEAN, _STD = [0.5] * 3, [0.5] * 3


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained scorer of about 1.5 M parameters: 4 vision layers, 2 text layers."""
    text = text_config(tokenizer)
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=WIDTH)
    return CLIPModel(config)


def altered(scene: Scene, seed: int) -> Scene:
    """A scene with one captioned attribute changed, so that the caption is wrong."""
    rng = np.random.default_rng([5, seed])
    choices = ["kind", "hair_colour", "glasses", "hat", "shirt", "background", "smile", "beard"]
    if scene.hair_style == "bald":
        choices.remove("hair_colour")
    name = str(rng.choice(choices))
    if name in ("glasses", "smile", "beard"):
        change: dict[str, Any] = {name: not getattr(scene, name)}
        return dataclasses.replace(scene, **change)
    values: list[str | None] = list(ATTRIBUTE_VALUES["hair" if name == "hair_colour" else name])
    values = [None if value == "none" else value for value in values if value != "bald"]
    others = [value for value in values if value != getattr(scene, name)]
    change = {name: others[rng.integers(len(others))]}
    return dataclasses.replace(scene, **change)


def contrastive_loss(image: Tensor, text: Tensor, wrong: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss in both directions, with altered captions as further negatives.

    Args:
        image: ``[B, D]``, unit length.
        text: Their captions, ``[B, D]``, unit length.
        wrong: Captions with one attribute changed, ``[B, D]``, unit length.
        scale: Multiplies the cosines, > 0.

    Returns:
        The mean of both directions.

    Source:
        Radford et al. 2021, arXiv:2103.00020, figure 3; the altered captions as in NegCLIP,
        Yuksekgonul et al. 2023, arXiv:2210.01936.
    """
    own = torch.arange(len(image))
    by_image = F.cross_entropy(scale * image @ torch.cat([text, wrong]).T, own)
    by_text = F.cross_entropy(scale * text @ image.T, own)
    pair = scale * torch.stack([(image * text).sum(1), (image * wrong).sum(1)], 1)
    by_pair = F.cross_entropy(pair, torch.zeros_like(own))
    return (by_image + by_text) / 2 + by_pair


class ClipFit(Fit):
    """Contrastive training on clean and degraded drawings."""

    def __init__(
        self, tokenizer: CLIPTokenizer, pixels: Tensor, seeds: list[int], recipe: Recipe = RECIPE
    ) -> None:
        super().__init__(recipe)
        torch.manual_seed(recipe.seed)
        self.clip = new_clip(tokenizer)
        self.tokenizer, self.pixels, self.seeds = tokenizer, pixels, seeds
        self.targets = labels(seeds)
        # Read both embeddings alike while training, so that they come to agree sooner.
        self.readers = nn.ModuleDict(
            {name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTE_VALUES.items()}
        )

    def _reading_loss(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        losses = [
            F.cross_entropy(self.readers[name](embeddings).float(), target[indices])
            for name, target in self.targets.items()
        ]
        return torch.stack(losses).mean()

    def training_step(self, indices: Tensor, step: int) -> Tensor:
        """Loss on the pictures at ``indices``, ``[B]``, with new captions."""
        source = generator(self.recipe.seed, "clip", step)
        wording = torch.randint(2**31, (len(indices), 3), generator=source).tolist()
        scenes = [random_scene(self.seeds[index]) for index in indices.tolist()]
        right = [caption(scene, w[0]) for scene, w in zip(scenes, wording, strict=True)]
        wrong = [
            caption(altered(scene, w[1]), w[w[2] % 2 * 2])
            for scene, w in zip(scenes, wording, strict=True)
        ]
        x = degrade(to_tensor(self.pixels[indices].numpy()), source)
        tokens = self.tokenizer(right + wrong, padding=True, truncation=True, return_tensors="pt")
        image = self.clip.get_image_features(pixel_values=x).pooler_output
        text = self.clip.get_text_features(**tokens).pooler_output
        read = self._reading_loss(image, indices) + self._reading_loss(text[: len(x)], indices)
        image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        scale = self.clip.logit_scale.clamp(max=4.6).exp()
        loss = contrastive_loss(image, text[: len(x)], text[len(x) :], scale)
        self.print_values({"loss": loss.detach(), "read": read.detach(), "scale": scale.detach()})
        return loss + read


@torch.no_grad()
def cosines(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pixels: Tensor, captions: list[str]
) -> Tensor:
    """Cosine of every picture with every caption.

    Args:
        clip: The scorer.
        tokenizer: Its tokenizer.
        pixels: ``[N, 3, 64, 64]`` in [-1, 1].
        captions: M texts.

    Returns:
        ``[N, M]``.
    """
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    text = clip.get_text_features(**tokens).pooler_output
    image = torch.cat([clip.get_image_features(p).pooler_output for p in pixels.split(100)])
    return F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T


def measure(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pixels: Tensor, seeds: list[int]
) -> dict[str, float]:
    """Measure how often the right caption wins, 0 to 1.

    Args:
        clip: The scorer.
        tokenizer: Its tokenizer.
        pixels: ``[N, 3, 64, 64]`` in [-1, 1]; N a multiple of 50.
        seeds: Seeds of the N portraits.

    Returns:
        ``retrieval_top1`` among 50 captions, and ``altered_rejected``: the right caption scores
        above one with a single attribute changed.
    """
    scenes = [random_scene(seed) for seed in seeds]
    right = [caption(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)]
    wrong = [caption(altered(s, seed), seed) for s, seed in zip(scenes, seeds, strict=True)]
    scores = cosines(clip, tokenizer, pixels, right)
    blocks = [scores[i : i + 50, i : i + 50] for i in range(0, len(seeds), 50)]
    hits = torch.cat([block.argmax(1) == torch.arange(len(block)) for block in blocks])
    against = cosines(clip, tokenizer, pixels, wrong).diagonal()
    return {
        "retrieval_top1": float(hits.float().mean()),
        "altered_rejected": float((scores.diagonal() > against).float().mean()),
    }


def save_clip(clip: CLIPModel, folder: Path) -> None:
    """Write the scorer in half precision, with its processor and tokenizer.

    The config says float32, so that it is loaded in float32.
    """
    clip.half().save_pretrained(folder)
    clip.float()
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    write_json(path, config)
    size = {"height": 64, "width": 64}
    CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=_MEAN, image_std=_STD
    ).save_pretrained(folder)


def train_clip(folder: Path, recipe: Recipe = RECIPE) -> dict[str, float]:
    """Train the scorer and write it to ``folder``, tokenizer and processor included.

    Returns:
        The measurements of :func:`measure` on unseen drawings.
    """
    tokenizer_folder = ASSETS / "tiny-sd" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    people = people_pictures("people", TRAIN_SEEDS, NUM_PEOPLE, PICTURES_EACH)
    pixels = torch.from_numpy(people.reshape(-1, 64, 64, 3))
    module = ClipFit(tokenizer, pixels, list(TRAIN_SEEDS[-len(pixels) :]), recipe)
    seconds = fit(module, len(pixels), "clip")
    clip = module.clip.eval()
    clip.logit_scale.data.clamp_(max=4.6)
    unseen = list(HELD_OUT_SEEDS[:500])
    pictures = to_tensor(cached(WORK_FOLDER, "held_out", unseen))
    measured = measure(clip, tokenizer, pictures, unseen)
    print(json.dumps({**measured, "seconds": seconds}), flush=True)
    save_clip(clip, folder)
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return measured
