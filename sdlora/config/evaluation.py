"""The schema of the config group ``evaluation``: which scores, when, and what they decide."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import TRAINING, absent, given, other_than, where
from sdlora.config.rules import require, require_choice, require_count, require_rate
from sdlora.config.score_kinds import KINDS, kind

STOP, WARN = "stop", "warn"
"""What a score that cannot be taken does to a run."""

SCORED = other_than("evaluation.*.name", "none")
"""Something is scored."""

UNSET = ("none", False, 0)
"""Value of a key that switches a score off."""


_OFF = {"kid": "false", "prior_prompts": "0", "hw10": "false"}
"""Keys that use a scorer's model, and their value that switches them off."""

_SCALED = ("face", "clip", "image", "aesthetic")
"""Scorers of which ``scales`` needs one."""


@dataclass(slots=True, kw_only=True)
class ScorerConfig:
    """A scorer by name, with its options."""

    name: str = MISSING
    """Which scorer, or ``none``."""
    options: dict[str, Any] = field(
        default_factory=dict, metadata=where(other_than(".name", "none"))
    )
    """Further arguments of the scorer, checked against its signature."""


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    """Which scores are measured and when, and how the best checkpoint is chosen."""

    face: ScorerConfig = MISSING
    """Face distance and faceless count: ``tiny_face``, ``deepface`` or ``none``."""
    clip: ScorerConfig = MISSING
    """CLIP score: ``clip`` (``options.model``: ``tiny``, a folder or a Hub id), or ``none``."""
    attributes: ScorerConfig = MISSING
    """Share of the attributes named in a prompt that its picture shows: ``tiny_attributes``, which
    reads the drawn world alone, or ``none``."""
    image: ScorerConfig = MISSING
    """Image similarity, diversity and copying: ``image`` (``options.model``: ``tiny``, a folder or
    a Hub id of a CLIP or DINOv2), or ``none``."""
    kid: bool = MISSING
    """Kernel distance (KID) to the references, by the features of ``image``."""
    aesthetic: ScorerConfig = MISSING
    """``aesthetic`` (``options.head``: a local safetensors file; ``options.model``: the CLIP that
    it was trained on), or ``none``."""
    hw10: bool = MISSING
    """The three numbers of the NTU GenAI 2024 homework 10, by ``face`` and ``clip``, as it prints
    them."""
    trigger_word: str | None = None
    """The word in the prompts that names the trained subject, such as ``sks``."""
    class_word: str | None = field(default=None, metadata=where(given(".trigger_word")))
    """Class of the subject, such as ``man``: replaces ``trigger_word`` where a model that never saw
    that word scores pictures, and in the prompts of the prior drift."""
    prior_prompts: int = field(default=MISSING, metadata=where(absent("images")))
    """Number of prompts that are also drawn with the class word and compared with the base's
    pictures: the prior drift, by the features of ``image``. 0: none."""
    references: str | None = None
    """Folder of held-out pictures of the same person. ``null``: the folder ``held_out`` in
    ``data.root`` if there is one, else the training pictures."""
    on_missing: str = field(default=MISSING, metadata=where(SCORED))
    """A score that cannot be taken, for lack of its model or a library: ``stop`` ends the run
    before training; ``warn`` goes on, and the end of the run says which scores are missing."""
    every_n_steps: int = field(
        default=MISSING,
        metadata=where(TRAINING, SCORED, absent(".every_n_epochs")),
    )
    """Optimizer steps between scores; 0: only at the end."""
    every_n_epochs: float | None = field(default=None, metadata=where(TRAINING, SCORED))
    """Epochs between scores, in place of ``every_n_steps``, which they become; > 0.
    ``null``: as that says."""
    scales: list[float] = field(default_factory=list, metadata=where(TRAINING))
    """Strengths at which the chosen adapter of a run is also scored at its end, such as
    ``[0.6,0.8]``; 1, as trained, always is. ``evaluate.py`` has ``lora_scale`` instead."""
    select: str = field(default=MISSING, metadata=where(TRAINING))
    """Score that the best checkpoint is chosen by, one that ``score_kinds.py`` marks for it;
    ``none`` keeps no best checkpoint."""
    max_clip_loss: float = field(
        default=MISSING,
        metadata=where(TRAINING, other_than(".select", "none"), other_than(".clip.name", "none")),
    )
    """A checkpoint whose CLIP score is lower than the base's by more than this is never the best;
    in points, >= 0."""
    stop_patience: int | None = field(default=None, metadata=where(TRAINING))
    """Number of scores without an improvement after which training stops; ``null``: train to the
    end."""

    def __post_init__(self) -> None:
        require_choice("evaluation.on_missing", self.on_missing, (STOP, WARN))
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
                self.select != "none" and (self.every_n_steps > 0 or bool(self.every_n_epochs)),
                "evaluation.stop_patience",
                self.stop_patience,
                "needs evaluation.select and evaluation.every_n_steps > 0",
            )
        require_choice("evaluation.face.name", self.face.name, ("tiny_face", "deepface", "none"))
        require_choice("evaluation.clip.name", self.clip.name, ("clip", "none"))
        require_choice(
            "evaluation.attributes.name", self.attributes.name, ("tiny_attributes", "none")
        )
        require_choice("evaluation.image.name", self.image.name, ("image", "none"))
        require_choice("evaluation.aesthetic.name", self.aesthetic.name, ("aesthetic", "none"))
        self._check_features()
        require_count("evaluation.every_n_steps", self.every_n_steps, 0)
        if self.every_n_epochs is not None:
            require_rate("evaluation.every_n_epochs", self.every_n_epochs)
        require(
            all(math.isfinite(scale) for scale in self.scales),
            "evaluation.scales",
            self.scales,
            "must be finite numbers, such as [0.6,0.8]",
        )
        require(
            not self.scales or any(getattr(self, name).name != "none" for name in _SCALED),
            "evaluation.scales",
            self.scales,
            "nothing is scored; leave it out, or choose scores with evaluation=default",
        )

    def unset_for(self, score: str) -> list[str]:
        """Keys of this group that a score needs and that are not set."""
        values = {key: getattr(self, key) for key in kind(score).needs}
        return [key for key, value in values.items() if getattr(value, "name", value) in UNSET]

    def without(self, scorer: str) -> list[str]:
        """Overrides that switch a scorer off, and what cannot be measured or chosen without it."""
        keys = {key for each in KINDS.values() if scorer in each.needs for key in each.needs}
        values = {key: getattr(self, key) for key in sorted(keys)}
        dependent = {key: off for key in values if (off := _OFF.get(key)) and values[key]}
        if scorer in kind(self.select).needs:
            dependent["select"] = "none"
            dependent |= {} if self.stop_patience is None else {"stop_patience": "null"}
        others = (getattr(self, name).name for name in _SCALED if name != scorer)
        if self.scales and all(name == "none" for name in others):
            dependent["scales"] = "[]"
        dependent = {scorer: "none", **dependent}
        return [f"evaluation.{key}={value}" for key, value in dependent.items()]

    def _check_features(self) -> None:
        """Check that scores which use another scorer's model have that scorer."""
        require_count("evaluation.prior_prompts", self.prior_prompts, 0)
        has_features = self.image.name != "none"
        for key, value in (("kid", self.kid), ("prior_prompts", self.prior_prompts)):
            require(
                has_features or not value,
                f"evaluation.{key}",
                value,
                f"compares features; set evaluation.image.name=image, too, or evaluation.{key}="
                f"{_OFF[key]}",
            )
        require(
            not self.hw10 or (self.face.name == "deepface" and self.clip.name == "clip"),
            "evaluation.hw10",
            self.hw10,
            "is measured with evaluation.face.name=deepface and evaluation.clip.name=clip",
        )
        has_both = self.trigger_word is not None and self.class_word is not None
        require(
            has_both or not self.prior_prompts,
            "evaluation.prior_prompts",
            self.prior_prompts,
            "needs data.trigger_word and data.class_word",
        )
