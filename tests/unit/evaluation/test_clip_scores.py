"""The CLIP score of pictures one by one, and of prompts put into words that CLIP knows."""

from functools import partial

import pytest

from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.clip_scores import ClipScorer
from sdlora.evaluation.scoring import Pictures, Scorer, Unavailable
from sdlora.sampling.prompts import with_class_word
from tests.unit.evaluation.colours import Notes, pictures, score

COLOURS = ("white", "red")


def test_the_mean_and_each_pictures_own_score(clip_folder):
    notes = Notes()
    scorer = ClipScorer(ClipScore(clip_folder))
    found = scorer.score(Pictures(pictures(*COLOURS), ["a cat", "hat"]), notes)
    alone = ClipScore(clip_folder)
    alone.update(pictures(*COLOURS), ["a cat", "hat"])
    assert found.values == {"clip_score": pytest.approx(alone.compute().item(), abs=1e-4)}
    assert len(found.per_picture["clip_score"]) == 2
    assert notes.counted == [1, 2]
    again = score(scorer, "white", prompts=["a cat"])  # nothing is left of the first scoring
    assert again.values["clip_score"] == pytest.approx(found.per_picture["clip_score"][0], abs=1e-5)


def test_the_interval_is_of_signed_cosines_and_not_below_zero(clip_folder):
    found = score(ClipScorer(ClipScore(clip_folder)), *COLOURS, prompts=["a cat", "hat"])
    low, high = found.intervals["clip_score"]
    assert 0 <= low <= found.values["clip_score"] <= high


def test_clip_is_asked_in_other_words_and_the_prompts_stay(clip_folder):
    reworded = partial(with_class_word, trigger_word="sks", class_word="man")
    asked = ClipScorer(ClipScore(clip_folder), reworded)
    given = ["a sks man", "sks hat"]
    scores = Scorer([asked]).score(Pictures(pictures(*COLOURS), given))
    plain = ClipScorer(ClipScore(clip_folder))
    expected = score(plain, *COLOURS, prompts=["a man", "man hat"])
    assert scores.per_picture["clip_score"] == expected.per_picture["clip_score"]
    assert (
        scores.per_picture["clip_score"]
        != score(plain, *COLOURS, prompts=given).per_picture["clip_score"]
    )
    assert scores.per_picture["prompt"] == given


def test_without_prompts_there_is_a_reason(clip_folder):
    with pytest.raises(Unavailable, match="there are no prompts to compare with"):
        score(ClipScorer(ClipScore(clip_folder)), "red")
