"""The schema of the config group ``evaluation``: which scores, when, and what they decide."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.rules import require, require_choice, require_count
from sdlora.config.score_kinds import KINDS, kind

UNSET = ("none", False, 0)
"""What a key has that asks for no score."""


@dataclass(slots=True, kw_only=True)
class ScorerConfig:
    name: str = MISSING
    """Which scorer, or ``none``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its further arguments, checked against its signature."""


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    face: ScorerConfig = MISSING
    """Face distance and faceless count: ``tiny_face``, ``deepface`` or ``none``."""
    clip: ScorerConfig = MISSING
    """CLIP score: ``clip`` (``options.model``: ``tiny``, a folder or a Hub id), or ``none``."""
    image: ScorerConfig = MISSING
    """Image similarity, diversity and copying: ``image`` (``options.model``: ``tiny``, a folder or
    a Hub id of a CLIP or DINOv2), or ``none``."""
    kid: bool = MISSING
    """Kernel distance to the references, by the features of ``image``."""
    aesthetic: ScorerConfig = MISSING
    """``aesthetic`` (``options.head``: a local safetensors file; ``options.model``: the CLIP that
    it was trained on), or ``none``."""
    hw10: bool = MISSING
    """The three numbers of the NTU GenAI 2024 homework 10, by ``face`` and ``clip``, as it prints
    them."""
    trigger_word: str | None = None
    """The word in the prompts that calls what was trained, such as ``sks``."""
    class_word: str | None = None
    """What it is, such as ``man``: stands for ``trigger_word`` where a model that never saw that
    word scores pictures, and in the prompts of the prior drift."""
    prior_prompts: int = MISSING
    """So many prompts are drawn with the class word, too, and compared with the base's pictures:
    the prior drift, by the features of ``image``. 0: none."""
    references: str | None = None
    """Folder of pictures of the same person that training does not see. ``null``: the folder
    ``held_out`` in ``data.root`` if there is one, else the training pictures."""
    every_n_steps: int = MISSING
    """Optimizer steps between scores; 0: only at the end."""
    select: str = MISSING
    """The score that the best checkpoint has the best of, one that ``score_kinds.py`` marks for it;
    ``none`` keeps no best one."""
    max_clip_loss: float = MISSING
    """A checkpoint whose CLIP score is lower than the base's by more than this is never the best;
    in points, >= 0."""
    stop_patience: int | None = None
    """Stop after so many scores without a better one; ``null``: train to the end."""

    def __post_init__(self) -> None:
        selecting = [name for name, each in KINDS.items() if each.selects]
        require_choice("evaluation.select", self.select, (*selecting, "none"))
        require(
            not self.unset_for(self.select),
            "evaluation.select",
            self.select,
            "is not scored; choose the score that is, or none",
        )
        require(
            math.isfinite(self.max_clip_loss) and self.max_clip_loss >= 0,
            "evaluation.max_clip_loss",
            self.max_clip_loss,
            "must be a finite number >= 0",
        )
        if self.stop_patience is not None:
            require_count("evaluation.stop_patience", self.stop_patience)
            require(
                self.select != "none" and self.every_n_steps > 0,
                "evaluation.stop_patience",
                self.stop_patience,
                "needs evaluation.select and evaluation.every_n_steps > 0",
            )
        require_choice("evaluation.face.name", self.face.name, ("tiny_face", "deepface", "none"))
        require_choice("evaluation.clip.name", self.clip.name, ("clip", "none"))
        require_choice("evaluation.image.name", self.image.name, ("image", "none"))
        require_choice("evaluation.aesthetic.name", self.aesthetic.name, ("aesthetic", "none"))
        self._check_features()
        require_count("evaluation.every_n_steps", self.every_n_steps, 0)

    def unset_for(self, score: str) -> list[str]:
        """Keys of this group that have to be set for a score and are not."""
        values = {key: getattr(self, key) for key in kind(score).needs}
        return [key for key, value in values.items() if getattr(value, "name", value) in UNSET]

    def _check_features(self) -> None:
        """What stands on another scorer needs that one."""
        require_count("evaluation.prior_prompts", self.prior_prompts, 0)
        has_features = self.image.name != "none"
        for key, value in (("kid", self.kid), ("prior_prompts", self.prior_prompts)):
            require(
                has_features or not value,
                f"evaluation.{key}",
                value,
                "compares features; set evaluation.image.name=image, too",
            )
        require(
            not self.hw10 or (self.face.name == "deepface" and self.clip.name == "clip"),
            "evaluation.hw10",
            self.hw10,
            "is measured with evaluation.face.name=deepface and evaluation.clip.name=clip",
        )
        require(
            (self.trigger_word is None) == (self.class_word is None),
            "evaluation.class_word",
            self.class_word,
            "stands for evaluation.trigger_word; give both or none",
        )
        require(
            self.trigger_word is not None or not self.prior_prompts,
            "evaluation.prior_prompts",
            self.prior_prompts,
            "needs evaluation.trigger_word and evaluation.class_word",
        )
