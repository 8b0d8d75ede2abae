"""Draw the prompts, score the pictures, and keep the base model's beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from sdlora.adapters.lora import disabled
from sdlora.data.sources import PictureSource
from sdlora.files import atomic_path, write_json
from sdlora.generate import Prompt, generate, picture_name
from sdlora.metrics.scoring import Scorer, Scores
from sdlora.models.sd import StableDiffusion
from sdlora.progress import Progress
from sdlora.report import grid

MOST_REAL_PICTURES = 100
"""So many training pictures are scored, at most: the row of real pictures needs no more."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How pictures are drawn.

    Attributes:
        prompts: What to draw; equal prompts and seeds give equal noise in every run.
        num_preview: How many of them a preview shows.
        negative_prompt: What the pictures should not show.
        sampler: A name of ``samplers.SAMPLERS``.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
        resolution: Side in pixels.
        batch_size: Pictures at once.
        precision: Compute dtype of the UNet and text encoder.
    """

    prompts: tuple[Prompt, ...]
    num_preview: int
    negative_prompt: str
    sampler: str
    num_steps: int
    guidance_scale: float
    resolution: int
    batch_size: int
    precision: torch.dtype = torch.float32


@dataclass(slots=True)
class Evaluation:
    """Pictures of one state of the model, and their scores.

    Attributes:
        prompts: What was drawn.
        images: One for each prompt.
        scores: ``None`` for a preview, which is not scored.
    """

    prompts: Sequence[Prompt]
    images: list[Image.Image]
    scores: Scores | None = None

    def named(self, prefix: str) -> dict[str, float | None | str]:
        """Scores as ``prefix/name`` -> number, or ``None`` with ``prefix/name_reason``.

        Ends of an interval are ``prefix/name_low`` and ``prefix/name_high``.
        """
        if self.scores is None:
            return {}
        scores = self.scores
        values: dict[str, float | None | str] = {
            f"{prefix}/{name}": value for name, value in scores.values().items()
        }
        for name, (low, high) in scores.intervals.items():
            values.update({f"{prefix}/{name}_low": low, f"{prefix}/{name}_high": high})
        reasons = {f"{prefix}/{name}_reason": why for name, why in scores.reasons.items()}
        return {**values, **reasons}


@dataclass(slots=True)
class Evaluator:
    """Draws and scores a model as it is, without and with its adapter.

    Attributes:
        family: The model, with whatever adapter it carries.
        settings: What to draw and how.
        scorer: Scores pictures; it keeps what it knows of the references.
        progress: Shows how far drawing and scoring are.
        training_images: Shown as the last column of grids.
        base: The base model's pictures and scores, once drawn.
    """

    family: StableDiffusion
    settings: DrawSettings
    scorer: Scorer
    progress: Progress
    training_images: Sequence[Image.Image] = ()
    base: Evaluation | None = field(default=None)

    def draw_base(self) -> Evaluation:
        """Draw and score the model with its adapter switched off, once."""
        if self.base is None:
            unet, text_encoder = self.family.unet, self.family.text_encoder
            with disabled(unet), disabled(text_encoder), self.family.own_noise_schedule():
                self.base = self.draw()
        return self.base

    def draw(self, preview: bool = False, lora_scale: float = 1.0) -> Evaluation:
        """Draw the prompts with the model as it is.

        Args:
            preview: Draw only the first few, and do not score them.
            lora_scale: Strength of the adapter.
        """
        settings = self.settings
        prompts = settings.prompts[: settings.num_preview] if preview else settings.prompts
        device = next(self.family.unet.parameters()).device.type
        low = settings.precision != torch.float32
        with torch.autocast(device, dtype=settings.precision, enabled=low):
            images = generate(
                self.family.pipeline(),
                prompts,
                negative_prompt=settings.negative_prompt,
                num_steps=settings.num_steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                resolution=settings.resolution,
                batch_size=settings.batch_size,
                progress=self.progress,
                lora_scale=lora_scale,
                encode_prompts=self._encode if self._is_encoded_here else None,
            )
        if preview:
            return Evaluation(prompts, images)
        texts = [prompt.text for prompt in prompts]
        return Evaluation(prompts, images, self.scorer.score(images, texts, self.progress))

    def score_training(self, source: PictureSource) -> Scores:
        """Score the training pictures themselves: what drawing the person perfectly would give."""
        pictures = source.pictures[:MOST_REAL_PICTURES]
        images = [source.image(index) for index in range(len(pictures))]
        captions = [picture.text for picture in pictures]
        return self.scorer.score(images, captions, self.progress)

    def write_grid(self, path: Path, evaluation: Evaluation, label: str) -> Image.Image:
        """Write base above LoRA, a column a prompt, and return the picture."""
        count = min(len(evaluation.images), self.settings.num_preview)
        rows = [evaluation.images[:count]]
        labels = [label]
        if self.base is not None:
            rows.insert(0, self.base.images[:count])
            labels.insert(0, "base")
        if self.training_images:
            rows.append(list(self.training_images[:count]))
            labels.append("training")
        picture = grid(rows, labels, [prompt.text for prompt in evaluation.prompts[:count]])
        with atomic_path(path) as temporary:
            picture.save(temporary)
        return picture

    def write_preview(self, folder: Path, evaluation: Evaluation) -> None:
        """Write the pictures that a grid shows, each by itself."""
        count = self.settings.num_preview
        shown = Evaluation(evaluation.prompts[:count], evaluation.images[:count])
        self.write_pictures(folder, shown)

    def write_pictures(self, folder: Path, evaluation: Evaluation) -> None:
        """Write each picture by itself, named by index and a hash of its prompt.

        ``prompts.json`` beside the folder tells which prompt and seed each was drawn from.
        """
        prompts = [
            {"file": picture_name(index, prompt.text), "text": prompt.text, "seed": prompt.seed}
            for index, prompt in enumerate(self.settings.prompts)
        ]
        write_json(folder.parent / "prompts.json", prompts)
        for index, (prompt, image) in enumerate(
            zip(evaluation.prompts, evaluation.images, strict=True)
        ):
            with atomic_path(folder / picture_name(index, prompt.text)) as temporary:
                image.save(temporary)

    @property
    def _is_encoded_here(self) -> bool:
        """Whether prompts are encoded in a way that the pipeline does not know."""
        return bool(self.family.clip_skip) or self.family.max_chunks > 1

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        device = next(self.family.text_encoder.parameters()).device
        return self.family.encode_prompts(self.family.tokenize(texts).ids.to(device))
