"""The evaluator: draws the prompts, scores the pictures, and keeps those of the base."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from sdlora.adapters.strength import disabled
from sdlora.config.sampling import SamplingConfig
from sdlora.data.sources.picture_source import PictureSource, readable
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.scoring import Pictures, Prior, Scorer
from sdlora.models.drawing_base import drawing_weights
from sdlora.models.family import Family
from sdlora.runtime.progress import Progress
from sdlora.sampling.generate import generate, text_batches
from sdlora.sampling.prompts import Prompt

MOST_REAL_PICTURES = 100
"""Number of training pictures that are scored for the row of real pictures."""


@dataclass(slots=True)
class Evaluator:
    """Draws and scores a model with and without its adapter.

    Attributes:
        family: The model, with its adapter if it has one.
        sampling: Sampler settings, and the number of pictures of a preview.
        prompts: Prompts and seeds; equal ones give equal noise in every run.
        resolution: Side of the pictures in pixels.
        precision: Compute dtype of the UNet and text encoder.
        scorer: Scores pictures; keeps the embeddings of the references.
        progress: Shows how far drawing and scoring are.
        prior_prompts: Prompts of the class without the trigger word, which the adapter should not
            change.
        training_images: Shown as the last column of grids.
        scales: Strengths at which the chosen adapter is also scored.
        base: The base model's pictures and scores, once drawn.
        base_prior: Its pictures of the class, once drawn.
    """

    family: Family
    sampling: SamplingConfig
    prompts: Sequence[Prompt]
    resolution: int
    precision: torch.dtype
    scorer: Scorer
    progress: Progress
    prior_prompts: Sequence[Prompt] = ()
    training_images: Sequence[Image.Image] = ()
    scales: Sequence[float] = ()
    base: Evaluation | None = field(default=None)
    base_prior: list[Image.Image] = field(default_factory=list)

    def encode_prompts(self) -> None:
        """Encode all prompts as drawing will, where the model keeps them.

        Drawing then needs no text encoder, which can be larger than the denoiser.
        """
        preview = self.prompts[: self.sampling.num_preview]
        with self._in_precision():
            for prompts in (self.prompts, preview, self.prior_prompts):
                for texts in text_batches(prompts, self.sampling):
                    self.family.encode_texts(texts)

    def draw_base(self) -> Evaluation:
        """Draw and score the model with its adapter switched off, once."""
        if self.base is None:
            with disabled(*self.family.parts.values()), self.family.own_noise_schedule():
                self.base_prior = self._pictures(self.prior_prompts)
                self.base = self._scored(self._pictures(self.prompts))
        return self.base

    def draw(self, preview: bool = False, lora_scale: float = 1.0) -> Evaluation:
        """Draw the prompts with the current model.

        Args:
            preview: Draw only the first few, and do not score them.
            lora_scale: Strength of the adapter.
        """
        if preview:
            prompts = self.prompts[: self.sampling.num_preview]
            return Evaluation(prompts, self._pictures(prompts, lora_scale))
        images = self._pictures(self.prompts, lora_scale)
        prior = None
        if self.prior_prompts:
            self.draw_base()
            prior = (self.base_prior, self._pictures(self.prior_prompts, lora_scale))
        return self._scored(images, prior)

    def draw_scales(self) -> dict[float, Evaluation]:
        """Draw and score the current model at each strength of ``scales``."""
        return {
            scale: self.draw(lora_scale=scale)
            for scale in self.progress.track(self.scales, "Strengths")
        }

    def _pictures(self, prompts: Sequence[Prompt], lora_scale: float = 1.0) -> list[Image.Image]:
        family = self.family
        with self._in_precision(), family.called("vae"), drawing_weights(family):
            return generate(
                family.pipeline(),
                prompts,
                self.sampling,
                self.resolution,
                progress=self.progress,
                lora_scale=lora_scale,
                drawing=family.drawing(),
            )

    def _in_precision(self) -> torch.autocast:
        low = self.precision != torch.float32
        return torch.autocast(self.family.device.type, dtype=self.precision, enabled=low)

    def _scored(self, images: list[Image.Image], prior: Prior | None = None) -> Evaluation:
        pictures = Pictures(images, [prompt.text for prompt in self.prompts], prior=prior)
        return Evaluation(self.prompts, images, self.scorer.score(pictures, self.progress))


def score_training(source: PictureSource, scorer: Scorer, progress: Progress) -> Scores:
    """Scores of the training pictures themselves: those of a perfect likeness."""
    found = readable(source, MOST_REAL_PICTURES)
    images = [image for _, image in found]
    captions = [picture.text for picture, _ in found]
    known = captions if all(captions) else None
    return scorer.score(Pictures(images, known, are_training=True), progress)
