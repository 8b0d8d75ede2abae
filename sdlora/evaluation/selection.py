"""Which of several scored checkpoints is the best: a rule that a person can say in a sentence."""

from dataclasses import dataclass

from sdlora.evaluation.scores import Scores

LOWEST = ("face_distance", "kid")
"""Scores of which less is better."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How checkpoints are compared.

    Attributes:
        score: ``face_distance`` or ``kid`` (the lowest wins), or ``clip_score`` or
            ``image_similarity`` (the highest).
        max_clip_loss: A checkpoint whose CLIP score lies by more than this below the base's is not
            chosen, however alike its faces: it no longer draws what it is asked for. In points of
            100 * cosine, >= 0. It needs both CLIP scores; without one of them it is no condition.
    """

    score: str
    max_clip_loss: float

    def cost(self, scores: Scores, base: Scores) -> float | None:
        """What the best checkpoint has least of; ``None`` for one that cannot be chosen."""
        if not self.follows_prompts(scores, base):
            return None
        value = scores.value(self.score)
        if value is None or self.score in LOWEST:
            return value
        return -value

    def follows_prompts(self, scores: Scores, base: Scores) -> bool:
        """Whether the CLIP score has not fallen by more than the margin."""
        now, before = scores.value("clip_score"), base.value("clip_score")
        if now is None or before is None:
            return True
        return before - now <= self.max_clip_loss
