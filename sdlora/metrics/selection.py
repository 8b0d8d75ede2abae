"""Which of several scored checkpoints is the best: a rule that a person can say in a sentence."""

from dataclasses import dataclass

from sdlora.metrics.scoring import Scores

RULES = ("face_distance", "clip_score", "none")


@dataclass(frozen=True, slots=True)
class Rule:
    """How checkpoints are compared.

    Attributes:
        score: ``face_distance`` (the lowest wins) or ``clip_score`` (the highest).
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
        if self.score == "face_distance":
            return scores.face_distance
        return None if scores.clip_score is None else -scores.clip_score

    def follows_prompts(self, scores: Scores, base: Scores) -> bool:
        """Whether the CLIP score has not fallen by more than the margin."""
        if scores.clip_score is None or base.clip_score is None:
            return True
        return base.clip_score - scores.clip_score <= self.max_clip_loss
