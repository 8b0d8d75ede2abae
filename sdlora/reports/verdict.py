"""The verdict on a run: the score that tells, better than the base or not, the best strength."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdlora.config.score_kinds import IDENTITY_SCORES, KINDS, PROMPT_SCORE, kind
from sdlora.evaluation.advantage import Advantage, advantage_by_picture
from sdlora.evaluation.comparison import gap_closed
from sdlora.reports.score_tables import score_text

GOOD, OPEN, BAD = "good", "open", "bad"

_FOLLOWED = "prompt_followed"


class Measured(Protocol):
    """Scores of one state of the model, of the program or of a page."""

    @property
    def values(self) -> Mapping[str, float | int | None]:
        """Name of a score -> number."""

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """Name -> ends of the 95 % interval of a mean."""

    @property
    def per_picture(self) -> Mapping[str, Any]:
        """Column -> one value for each picture."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The states that a verdict is about.

    Attributes:
        base: The base model.
        chosen: What the run hands over, or has chosen so far.
        real: Real pictures, if they were scored.
        strengths: Other strengths than as trained.
        max_clip_loss: Points that the CLIP score may lose.
        selected: The score that chooses; ``None``: none does.
    """

    base: Measured | None = None
    chosen: Measured | None = None
    real: Measured | None = None
    strengths: Mapping[float, Measured] = field(default_factory=dict)
    max_clip_loss: float | None = None
    selected: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict in words.

    Attributes:
        headline: Is it any good, in a sentence.
        tone: ``good``, ``open`` or ``bad``.
        sentences: The reasons: likeness, prompts, copies.
        strength: The strength to use.
    """

    headline: str
    tone: str
    sentences: Sequence[str] = ()
    strength: float = 1.0


def telling_score(selected: str | None, *rows: Measured | None) -> str | None:
    """The score that chooses, else the first with a direction that all these rows have."""
    if any(row is None for row in rows):
        return None
    names = [] if selected in (None, "none") else [str(selected)]
    names += [name for name, each in KINDS.items() if each.sign]
    known = [row.values for row in rows if row is not None]
    found = (name for name in names if all(row.get(name) is not None for row in known))
    return next(found, None)


def is_better(name: str, own: float, other: float) -> bool:
    """Whether a value of a score is better than another."""
    return kind(name).sign * own < kind(name).sign * other


def best_strength(name: str | None, strengths: Mapping[float, Measured]) -> float:
    """The strength with the best value of a score, that of training among equal ones."""
    found = {
        scale: value
        for scale, row in sorted(strengths.items())
        if name is not None and (value := row.values.get(name)) is not None
    }
    if name is None or len(found) < 2:
        return 1.0
    return min(found, key=lambda scale: (kind(name).sign * found[scale], scale != 1))


def verdict_on(judged: Judged, *, so_far: bool = False) -> Verdict:
    """The verdict in words.

    Args:
        judged: What is compared.
        so_far: Whether the run is still training.
    """
    base, as_trained = judged.base, judged.chosen
    name = telling_score(judged.selected, base, as_trained)
    if base is None or as_trained is None or name is None:
        if so_far:
            return Verdict("Nothing is scored yet.", OPEN)
        return Verdict("How good it is, is unknown: nothing was scored.", OPEN)
    tried = {1.0: as_trained, **judged.strengths}
    strength = best_strength(name, tried)
    chosen = tried[strength]
    reasons = [_likeness(name, judged, chosen), *_prompts(judged, base, chosen), *_copies(chosen)]
    headline, tone = _headline(name, judged, base, chosen)
    return Verdict(headline, tone, reasons, strength)


def advantage_words(name: str, own: Measured, base: Measured) -> tuple[str, str]:
    """Whether a state is better than the base, tested over pictures, and the tone of it."""
    values = own.values.get(name), base.values.get(name)
    if values[0] is None or values[1] is None:
        return "not scored", OPEN
    if not is_better(name, values[0], values[1]):
        return "not better than the base", BAD
    found = advantage_by_picture(name, own.per_picture, base.per_picture)
    ends, base_ends = own.intervals.get(name), base.intervals.get(name)
    if found is not None:
        is_clear = found.is_clear
    elif ends is not None and base_ends is not None:  # the pictures' own numbers are not kept
        is_clear = ends[1] < base_ends[0] or ends[0] > base_ends[1]
    else:
        return "better than the base (not tested)", GOOD
    if is_clear:
        return "better than the base", GOOD
    return "perhaps chance: too few pictures to tell it from the base", OPEN


def _headline(name: str, judged: Judged, base: Measured, chosen: Measured) -> tuple[str, str]:
    _, tone = advantage_words(name, chosen, base)
    what = "likeness" if name in IDENTITY_SCORES else kind(name).title
    if tone == BAD:
        return f"Do not use this one: its {what} is no better than the base's.", BAD
    if tone == OPEN:
        return f"Perhaps: {what} is better than the base's, but that may be chance.", OPEN
    lost = _lost_prompts(judged, base, chosen)
    if lost:
        return f"Partly: {what} is better than the base's, but prompts suffer.", OPEN
    if (chosen.values.get("copying") or 0) > 0:
        return f"Partly: {what} is better than the base's, but pictures are copied.", OPEN
    return f"Yes, use it: {what} is better than the base's.", GOOD


def _likeness(name: str, judged: Judged, chosen: Measured) -> str:
    assert judged.base is not None
    own, before = chosen.values[name], judged.base.values[name]
    assert own is not None
    assert before is not None
    line = (
        f"{kind(name).title.capitalize()} {score_text(name, own)}, base {score_text(name, before)}"
    )
    real = None if judged.real is None else judged.real.values.get(name)
    if real is not None:
        line += f", real pictures {score_text(name, real)}"
        share = gap_closed(before, own, real) if name == IDENTITY_SCORES[0] else None
        line += f": {share:.0%} of the way from the base to them" if share is not None else ""
    found = advantage_by_picture(name, chosen.per_picture, judged.base.per_picture)
    return f"{line}. {_tested(name, found)}".strip()


def _tested(name: str, found: Advantage | None) -> str:
    if found is None:
        return ""
    ends = " to ".join(f"{score_text(name, end)}" for end in (found.low, found.high))
    return (
        f"Better by {score_text(name, found.mean)} (95 %: {ends}), paired over {found.count} "
        "pictures of the same prompts and noise."
    )


def _lost_prompts(judged: Judged, base: Measured, chosen: Measured) -> bool:
    now, before = chosen.values.get(PROMPT_SCORE), base.values.get(PROMPT_SCORE)
    if now is None or before is None or judged.max_clip_loss is None:
        return False
    return before - now > judged.max_clip_loss


def _prompts(judged: Judged, base: Measured, chosen: Measured) -> Iterable[str]:
    parts = []
    for name in (PROMPT_SCORE, _FOLLOWED):
        now, before = chosen.values.get(name), base.values.get(name)
        if now is not None and before is not None:
            shown = (
                (f"{now:.0%}", f"{before:.0%}")
                if name == _FOLLOWED
                else (score_text(name, now), score_text(name, before))
            )
            parts.append(f"{kind(name).title} {shown[0]} (base {shown[1]})")
    if parts:
        kept = "suffer" if _lost_prompts(judged, base, chosen) else "are kept"
        yield f"Prompts {kept}: {', '.join(parts)}."


def _copies(chosen: Measured) -> Iterable[str]:
    share = chosen.values.get("copying")
    if share is None:
        return
    yield (
        "Copying: no picture is a copy of a training picture."
        if share <= 0
        else f"Copying: {share:.0%} of the pictures are copies of training pictures."
    )
