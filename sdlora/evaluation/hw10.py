"""The three numbers of NTU GenAI 2024, homework 10, computed as its tutorial's ``evaluate()`` does.

They are for comparing with what that tutorial prints, not for choosing an adapter:

- The references are the training pictures, so that copying them is rewarded.
- A picture without a face leaves both means: an adapter gains by destroying its worst faces.
- With no face in any picture it gives 0 for the distance, its best value (here: no number).
- A training picture in which no face is found is embedded whole, background and all.

``face_distance``, ``faceless``, ``clip_score`` and ``copying`` avoid these.

One difference is in the drawing: the tutorial draws all prompts from one generator, in batches of
four, on its device; this project has one CPU generator for each prompt and seed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.deepface_model import DeepFaceModel
from sdlora.evaluation.interval import bootstrap_interval
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.scoring import KnownPictures, Measured, Pictures, Unavailable
from sdlora.runtime.progress import Progress

FACE, CLIP, FACELESS = "hw10_face", "hw10_clip", "hw10_faceless"
TUTORIAL_PARTS = ("GhostFaceNet", "ssd")
"""The recognition network and the detector of the tutorial."""

NO_FACE = "no picture shows a face; the tutorial prints 0 here, its best value"


class Hw10Scorer:
    """Face distance to all training pictures, CLIP score and faceless count of homework 10.

    Args:
        face: Embeds faces; the tutorial's numbers need its :data:`TUTORIAL_PARTS`.
        clip: The CLIP; the tutorial's is ``openai/clip-vit-base-patch32``. Prompts keep the trigger
            word.
        training: All training pictures, in any order, including those without a face.

    Source:
        The evaluation cell of the homework's tutorial, Hung-yi Lee, NTU 2024.
    """

    names: Sequence[str] = (FACE, CLIP, FACELESS)

    def __init__(self, face: DeepFaceModel, clip: ClipScore, training: KnownPictures) -> None:
        self._face = face
        self._clip = clip
        self._training = training
        self._vectors: Tensor | None = None

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures; both means are over those that show a face."""
        if pictures.are_training:
            raise Unavailable("these are its own reference pictures")
        training = self._training_vectors(progress)
        first = self._face.first_faces(pictures.images)
        shown = first.confidences != 0
        measured = Measured(values={FACELESS: int((~shown).sum())})
        if not shown.any():
            measured.lack(FACE, NO_FACE)
            measured.lack(CLIP, NO_FACE)
            return measured
        # cdist's default, whose rounding is part of the tutorial's number
        distances = torch.cdist(_units(first.vectors[shown]), training, p=2)
        measured.values[FACE] = distances.mean().item()
        measured.intervals[FACE] = bootstrap_interval(distances.mean(dim=1).tolist())
        self._add_clip(measured, pictures, shown.tolist(), progress)
        return measured

    def _add_clip(
        self, measured: Measured, pictures: Pictures, shown: list[bool], progress: Progress
    ) -> None:
        if pictures.prompts is None:
            measured.lack(CLIP, "there are no prompts to compare with")
            return
        everything = zip(pictures.images, pictures.prompts, shown, strict=True)
        pairs = [(image, prompt) for image, prompt, has_face in everything if has_face]
        logits = [self._logit(*pair) for pair in progress.track(pairs, "HW10 CLIP score")]
        measured.values[CLIP] = sum(logits) / len(logits)
        measured.intervals[CLIP] = bootstrap_interval(logits)

    @torch.no_grad()
    def _logit(self, image: Image.Image, prompt: str) -> float:
        """``exp(logit_scale) * cos`` of a picture and its prompt, about 100 * cosine."""
        processor: Any = self._clip.processor
        network: Any = self._clip.model.model
        text = processor(text=[prompt], return_tensors="pt", padding=True)
        shown = processor(images=[image.convert("RGB")], return_tensors="pt", padding=True)
        output = network(
            input_ids=text["input_ids"].to(network.device),
            attention_mask=text["attention_mask"].to(network.device),
            pixel_values=shown["pixel_values"].to(network.device, network.dtype),
        )
        return float(output.logits_per_image.item())

    def _training_vectors(self, progress: Progress) -> Tensor:
        """Unit embeddings of all training pictures, computed once."""
        if not self._training.images:
            raise Unavailable("there are no training pictures to compare with")
        if self._vectors is None:
            first = self._face.first_faces(self._training.images)
            self._note_differences(first.confidences, progress)
            self._vectors = _units(first.vectors)
        if lacking := self._named(~torch.isfinite(self._vectors).all(dim=1)):
            raise Unavailable(f"deepface gives no embedding of training pictures {lacking}")
        return self._vectors

    def _note_differences(self, confidences: Tensor, progress: Progress) -> None:
        parts = (self._face.model_name, self._face.detector)
        if parts != TUTORIAL_PARTS:
            progress.print(
                f"note: the HW10 scores are by {' and '.join(parts)}, the tutorial's by "
                f"{' and '.join(TUTORIAL_PARTS)}: they are not comparable"
            )
        if faceless := self._named(confidences == 0):
            progress.print(
                "note: for the HW10 scores these training pictures are embedded whole, as in the "
                f"tutorial, since no face is found in them: {faceless}"
            )

    def _named(self, chosen: Tensor) -> str:
        pairs = zip(self._training.names, chosen.tolist(), strict=True)
        return ", ".join(name for name, is_chosen in pairs if is_chosen)


def tutorial_line(scores: Scores) -> str:
    """The scores as the tutorial prints them; ``None`` for a number that is missing."""
    face, clip, faceless = (scores.value(name) for name in Hw10Scorer.names)
    return f"Face Similarity Score: {face} CLIP Score: {clip} Faceless Images: {faceless}"


def _units(vectors: Tensor) -> Tensor:
    return vectors / torch.norm(vectors, p=2, dim=-1)[:, None]
