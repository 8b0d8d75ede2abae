"""Base and LoRA on the same noise; the model is given back as it was."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.strength import set_scale
from sdlora.data.sources.portrait_source import PortraitSource
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.evaluator import Evaluator, score_training
from sdlora.evaluation.image_scores import ImageScorer
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.scoring import KnownPictures, Pictures, Scorer
from sdlora.models.sd import StableDiffusion
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt
from tests.sampling import sampling_config
from tests.unit.tiny_training import adapted

# diffusers 0.42 gives tensors to numpy functions, which torch 2.13 answers in the old protocol
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

PROMPTS = tuple(Prompt(text, seed) for text in ("a man", "a hat") for seed in (0, 1))
BOTH = ("unet", "text_encoder")


class Brightness:
    """Stands for a scorer: the mean grey of the pictures is their face distance."""

    def __init__(self) -> None:
        self.asked: list[Pictures] = []

    def score(self, pictures: Pictures, progress: Progress) -> Scores:
        self.asked.append(pictures)
        mean = float(pixels(pictures.images).mean())
        return Scores(len(pictures.images), {"face_distance": mean})


def evaluator(
    family: StableDiffusion,
    scorer: Any = None,
    prompts: Sequence[Prompt] = PROMPTS,
    precision: torch.dtype = torch.float32,
    prior_prompts: Sequence[Prompt] = (),
    **sampling: Any,
) -> Evaluator:
    return Evaluator(
        family=family,
        sampling=sampling_config(negative_prompt="", **sampling),
        prompts=prompts,
        prior_prompts=prior_prompts,
        resolution=32,
        precision=precision,
        scorer=cast(Scorer, scorer or Brightness()),
        progress=Progress(enabled=False),
    )


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def strong(family: StableDiffusion) -> StableDiffusion:
    """Adapters on both parts that change every picture."""
    adapted(family, BOTH)
    for part in BOTH:
        set_scale(getattr(family, part), 20.0)
    return family


def test_the_base_is_the_model_without_its_adapters(
    family: StableDiffusion, loaded_family: StableDiffusion
) -> None:
    """To the pixel, as a model that never had one; and drawn once, whatever happens later."""
    found = evaluator(strong(family))
    base = found.draw_base()
    bare = evaluator(loaded_family).draw()
    np.testing.assert_array_equal(pixels(base.images), pixels(bare.images))
    assert not np.array_equal(pixels(found.draw().images), pixels(base.images))
    for parameter in lora_parameters(family.unet).values():
        parameter.data.zero_()
    assert found.draw_base() is base


def test_the_base_keeps_the_schedule_that_it_came_with(
    family: StableDiffusion, loaded_family: StableDiffusion
) -> None:
    """The adapter is drawn as it was trained; the bare base would draw noise so."""
    found = evaluator(strong(family))
    as_it_came = pixels(found.draw().images)
    family.change_noise_schedule("v_prediction", zero_terminal_snr=True)
    base = found.draw_base()
    bare = evaluator(loaded_family).draw()
    np.testing.assert_array_equal(pixels(base.images), pixels(bare.images))
    assert not np.array_equal(pixels(found.draw().images), as_it_came)


def test_no_strength_is_the_base_and_half_is_neither(family: StableDiffusion) -> None:
    found = evaluator(strong(family))
    base = pixels(found.draw_base().images)
    np.testing.assert_array_equal(pixels(found.draw(lora_scale=0.0).images), base)
    half, whole = pixels(found.draw(lora_scale=0.5).images), pixels(found.draw().images)
    assert not np.array_equal(half, whole)
    assert not np.array_equal(half, base)


def test_the_model_is_given_back_as_it_was(family: StableDiffusion) -> None:
    found = evaluator(strong(family))
    family.unet.train()
    modes = [module.training for module in family.modules()]
    trains = [parameter.requires_grad for parameter in family.parameters()]
    weights = copy.deepcopy(family.state_dict())
    state = torch.get_rng_state()
    first = pixels(found.draw().images)
    found.draw_base()
    assert [module.training for module in family.modules()] == modes
    assert [parameter.requires_grad for parameter in family.parameters()] == trains
    assert all(torch.equal(value, weights[name]) for name, value in family.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(pixels(found.draw().images), first)  # the adapter is back on


def test_all_prompts_are_scored_and_a_preview_is_not(family: StableDiffusion) -> None:
    scorer = Brightness()
    found = evaluator(family, scorer)
    preview = found.draw(preview=True)
    assert preview.scores is None
    assert preview.named("eval") == {}
    assert len(preview.images) == 3
    assert not scorer.asked
    whole = found.draw()
    (asked,) = scorer.asked
    assert asked.images == whole.images
    assert asked.prompts == ["a man", "a man", "a hat", "a hat"]
    assert (asked.prior, asked.are_training) == (None, False)
    assert whole.scores is not None
    assert whole.scores.value("face_distance") == pixels(whole.images).mean()
    # the preview shows the first of them, in a batch of three: up to rounding the same
    difference = np.abs(pixels(whole.images[:3]) - pixels(preview.images))
    assert difference.max() <= 1


def test_scores_are_named_with_the_reason_of_what_is_missing() -> None:
    values = {"face_distance": 1.25, "faceless": 2, "clip_score": None}
    scores = Scores(4, values, {"clip_score": "no CLIP model"})
    assert Evaluation(PROMPTS, [], scores).named("eval") == {
        "eval/face_distance": 1.25,
        "eval/faceless": 2,
        "eval/clip_score": None,
        "eval/clip_score_reason": "no CLIP model",
    }


def test_interval_ends_and_further_scores_are_named() -> None:
    values = {"face_distance": 1.25, "diversity": 0.5}
    scores = Scores(4, values, intervals={"face_distance": (1.0, 1.5)})
    assert Evaluation(PROMPTS, [], scores).named("eval") == {
        "eval/face_distance": 1.25,
        "eval/face_distance_low": 1.0,
        "eval/face_distance_high": 1.5,
        "eval/diversity": 0.5,
    }


def test_skipped_layers_are_skipped_when_drawing(
    family: StableDiffusion, loaded_family: StableDiffusion
) -> None:
    """A UNet trained on the last but one layer must be shown the same when it draws."""
    family.clip_skip = 1
    skipped = pixels(evaluator(family).draw().images)
    # the same by hand: a text encoder whose last layer is gone
    shorter = copy.deepcopy(loaded_family)
    del shorter.text_encoder.encoder.layers[-1]
    shorter.text_encoder.encoder.layers[0].self_attn.layer_idx = 0
    shorter.text_encoder.config.num_hidden_layers = 1
    expected = pixels(evaluator(shorter).draw().images)
    assert np.abs(skipped - expected).max() <= 1
    assert not np.array_equal(skipped, pixels(evaluator(loaded_family).draw().images))


def test_low_precision_draws_nearly_the_same(family: StableDiffusion) -> None:
    full = pixels(evaluator(family).draw().images)
    low = pixels(evaluator(family, precision=torch.bfloat16).draw().images)
    assert not np.array_equal(low, full)
    # bfloat16 has 8 bits; guidance 3 magnifies its error: 4 of 255 grey levels on average
    assert np.abs(low - full).mean() < 4


class Pixels:
    """Stands for picture features: the pixels, as unit vectors."""

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        rows = torch.from_numpy(pixels(images)).flatten(1).float()
        return torch.nn.functional.normalize(rows, dim=1)


PRIOR = (Prompt("a person", 0), Prompt("a person", 1))


def drift_scorer() -> Scorer:
    return Scorer([ImageScorer(cast(Any, Pixels()), KnownPictures(), KnownPictures())])


def test_the_class_drifts_by_what_the_adapter_does_to_it(family: StableDiffusion) -> None:
    found = evaluator(strong(family), drift_scorer(), prior_prompts=PRIOR)
    still, whole = found.draw(lora_scale=0.0).scores, found.draw().scores
    base = found.draw_base().scores
    assert still is not None
    assert whole is not None
    assert base is not None
    assert still.value("prior_drift") == pytest.approx(0, abs=1e-6)  # float32
    drift = whole.value("prior_drift")
    assert drift is not None
    assert drift > 1e-4
    # by hand, from the pictures of the class alone
    class_only = evaluator(family, prompts=PRIOR)
    before, after = (Pixels().embed(e.images) for e in (class_only.draw_base(), class_only.draw()))
    assert drift == pytest.approx(float((1 - (before * after).sum(1)).mean()), abs=1e-5)
    assert "prior_drift" not in base.values  # the base does not drift from itself
    assert whole.num_pictures == len(PROMPTS)


def test_pictures_of_the_class_are_drawn_for_scores_alone(family: StableDiffusion) -> None:
    scorer = Brightness()
    found = evaluator(strong(family), scorer, prior_prompts=PRIOR)
    found.draw(preview=True)
    assert not scorer.asked
    first, second = found.draw(), found.draw()
    assert [len(pictures.images) for pictures in scorer.asked] == [4, 4, 4]  # the base is the first
    assert scorer.asked[0].prior is None
    for pictures, evaluation in zip(scorer.asked[1:], (first, second), strict=True):
        assert pictures.images == evaluation.images
        assert pictures.prior is not None
        base, now = pictures.prior
        assert (len(base), len(now)) == (2, 2)
        assert not np.array_equal(pixels(base), pixels(now))
        assert base is found.base_prior  # drawn once


def test_training_pictures_are_scored_up_to_a_hundred() -> None:
    scorer = Brightness()
    for num in (3, 120):
        scores = score_training(
            PortraitSource(num, size=16), cast(Scorer, scorer), Progress(enabled=False)
        )
        assert scores.num_pictures == min(num, 100)
    source = PortraitSource(3, size=16)
    few = scorer.asked[0]
    assert few.prompts == [picture.text for picture in source.pictures]
    np.testing.assert_array_equal(
        pixels(few.images), pixels([source.image(number) for number in range(3)])
    )
    assert all(pictures.are_training for pictures in scorer.asked)
