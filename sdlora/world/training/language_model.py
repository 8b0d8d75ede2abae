"""Training of the small flow base's language model: a chat that repeats captions."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from sdlora.world.portraits import TRAIN_SEEDS, caption, random_scene
from sdlora.world.training.fitting import Fit, Recipe, fit
from sdlora.world.training.flow_outline import write_flow_outline

NUM_CAPTIONS = 12_000
RECIPE = Recipe(num_steps=400, batch_size=64, max_lr=3e-3)
LONGEST = 96
"""Tokens of a chat about a caption; the drawn world's are shorter."""


def repeated_captions(tokenizer: Qwen2Tokenizer, seeds: list[int]) -> Tensor:
    """Token ids of chats in which a caption is said and repeated, ``[N, LONGEST]``.

    One who only guesses the next word of a caption need not tell colours apart: any may follow. To
    repeat it, its states must hold which one it was, and that is what the transformer reads.
    """
    texts = []
    for seed in seeds:
        said = caption(random_scene(seed), seed)
        chat = [{"role": role, "content": said} for role in ("user", "assistant")]
        texts.append(str(tokenizer.apply_chat_template(chat, tokenize=False)))
    ids: Tensor = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    assert ids.shape[1] <= LONGEST, "a chat is longer than LONGEST"
    return ids


class LanguageFit(Fit):
    """Training on the cross-entropy of the next token; padding does not count."""

    def __init__(self, net: Qwen3ForCausalLM, ids: Tensor, padding: int, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.net, self.ids, self.padding = net, ids, padding

    def training_step(self, indices: Tensor, step: int) -> Tensor:
        """Loss on the captions at ``indices``, ``[B]``."""
        ids = self.ids[indices]
        labels = ids.masked_fill(ids == self.padding, -100)
        loss: Tensor = self.net(input_ids=ids, labels=labels).loss
        self.print_values({"loss": loss.detach()})
        return loss


def train_language_model(folder: Path, recipe: Recipe = RECIPE) -> float:
    """Train the language model and write its weights in bfloat16, after the base's outline.

    Args:
        folder: ``text_encoder`` of the base; all that has no trained weights is written beside it.
        recipe: Steps, batch size and rate.

    Returns:
        Duration in seconds.
    """
    write_flow_outline(folder.parent)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder.parent / "tokenizer")
    torch.manual_seed(recipe.seed)
    net = Qwen3ForCausalLM(Qwen3Config.from_pretrained(folder))
    ids = repeated_captions(tokenizer, list(TRAIN_SEEDS[:NUM_CAPTIONS]))
    padding = tokenizer.pad_token_id
    assert isinstance(padding, int)
    seconds = fit(LanguageFit(net, ids, padding, recipe), NUM_CAPTIONS, "language")
    net.model.to(torch.bfloat16).save_pretrained(folder)
    return seconds
