"""Followed prompts against a reader whose answers are known by hand."""

import pytest
import torch

from sdlora.evaluation.prompt_followed import PromptFollowed, PromptFollowedScorer
from sdlora.evaluation.scoring import Unavailable
from sdlora.world.attributes import AttributeClassifier
from tests.unit.evaluation.colours import score

SEEN = {"kind": "man", "hair": "red", "glasses": "none", "hat": "blue", "beard": "yes"}


class Always(AttributeClassifier):
    """Sees the same man in every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def predict(self, pixels: torch.Tensor) -> list[dict[str, str]]:
        assert pixels.shape[1:] == (3, 64, 64)
        self.lengths.append(len(pixels))
        return [{**SEEN, "smile": "none", "shirt": "red", "background": "grey"} for _ in pixels]


PROMPTS = [
    "a man with red hair",  # 2 of 2
    "a woman, blue hat, glasses",  # 1 of 3
    "something else",  # names nothing
    "a smiling man with a beard, grey background",  # 2 of 2: smile and beard are not judged
]


def test_the_share_of_named_attributes_by_hand() -> None:
    reader = Always()
    found = score(PromptFollowedScorer(reader, 2), "white", "red", "lime", "red", prompts=PROMPTS)
    assert found.per_picture["prompt_followed"] == [1, 1 / 3, None, 1]
    assert found.values["prompt_followed"] == pytest.approx(7 / 9, abs=1e-7)
    low, high = found.intervals["prompt_followed"]
    assert low < 7 / 9 < high
    assert reader.lengths == [2, 1]  # what names nothing is not read


def test_without_prompts_or_attributes_there_is_a_reason() -> None:
    scorer = PromptFollowedScorer(Always())
    with pytest.raises(Unavailable, match="there are no prompts to compare with"):
        score(scorer, "white")
    names = "background, shirt, hair, hat, glasses or kind"
    with pytest.raises(Unavailable, match=f"^no prompt names {names}$"):
        score(scorer, "white", prompts=["a photo"])


def test_updates_add_up() -> None:
    whole, parts = PromptFollowed(), PromptFollowed()
    whole.update([1, None, 0.5])
    for share in (1, None, 0.5):
        parts.update([share])
    assert whole.compute() == parts.compute() == 0.75
    whole.reset()
    assert len(whole.each()) == 0
