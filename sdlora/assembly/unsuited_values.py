"""Notes on values of a config that work, but can hardly be meant for its model."""

from collections.abc import Iterable, Iterator

from sdlora.assembly.optimizer import trained_rates
from sdlora.config.evaluation import EvaluationConfig, ScorerConfig
from sdlora.config.model import ModelConfig
from sdlora.config.sampling import CAPTIONS
from sdlora.config.train import TrainConfig
from sdlora.models.families import description_of
from sdlora.runtime.places import EMBEDDED
from sdlora.training.optimizers import FINDS_ITS_STEP, RATES_LIKE_ADAMW
from sdlora.world.convolutions import SIZE_PX

TINY = "tiny"
"""What scorers of the drawn world are called in ``options.model``."""

DRAWN_PROMPTS = "example:prompts.txt"
"""Prompts of the drawn world."""

DRAWN_SIZE = (SIZE_PX, SIZE_PX)
"""Width and height of the drawn world's pictures."""

LOWEST_SIDE, HIGHEST_SIDE = 2 / 3, 3 / 2
"""Sides of pictures, relative to the model's own, that it still draws well."""

FAR_RATE = 20
"""A rate so many times the model's, or that part of it, is a slip rather than a choice."""

ROUNDING = 1e-9
"""Relative error of a product of two decimal numbers, with room."""

RATE_OF = {"transformer": "unet"}
"""``optim.NAME_lr`` -> the model's recommended rate for it, where they differ."""

FOR_PHOTOS = "for photos choose evaluation=photos"


def training_notes(config: TrainConfig) -> list[str]:
    """Key, value and remedy of each such value of a training run, one line each."""
    notes = [*_finds_its_step(config), *_warm_up(config)]
    if not _has_numbers_of_another(config.model):
        notes += [*_side(config), *_rates(config)]
    return notes + drawn_world_notes(config.model, config.sampling.prompts, config.evaluation)


def drawn_world_notes(
    model: ModelConfig, prompts: str | list[str] | None, evaluation: EvaluationConfig
) -> list[str]:
    """What belongs to the drawn portraits of the embedded base, with a model of real pictures.

    Args:
        model: The base that draws.
        prompts: ``sampling.prompts``; ``None`` where nothing is drawn.
        evaluation: The scores.
    """
    if _is_embedded(model):
        return []
    notes = []
    own = model.recommended
    if _has_numbers_of_another(model):
        notes.append(
            f"model.path={model.path}: has the numbers of the embedded base ({own.resolution} px, "
            f"rate {own.unet_lr:g}, {own.max_steps} steps); choose the model that it is like, too: "
            "model=sd15, sd21, sdxl, kolors, z_image or flux2_klein"
        )
    if prompts == DRAWN_PROMPTS:
        notes.append(
            f"sampling.prompts={prompts}: describes drawn portraits; name a text file with one "
            f"prompt for each line, or set sampling.prompts={CAPTIONS}"
        )
    suited = {
        "face.name": own.face,
        "attributes.name": own.attributes,
        "clip.options.model": own.clip_model,
        "image.options.model": own.image_model,
    }
    for key, value in _drawn_scorers(evaluation).items():
        remedy = FOR_PHOTOS if suited[key] == value else f"set evaluation.{key}={suited[key]}"
        notes.append(f"evaluation.{key}={value}: knows drawn portraits only; {remedy}")
    return notes


def drawn_scorers_note(
    model: ModelConfig, evaluation: EvaluationConfig, sizes: Iterable[tuple[int, int]]
) -> str | None:
    """A note where scorers of the drawn world judge pictures that are hardly of it.

    Args:
        model: The base; for one of real pictures :func:`drawn_world_notes` has said it.
        evaluation: The scores.
        sizes: Width and height of the pictures; those of the drawn world are small squares.
    """
    found = _drawn_scorers(evaluation)
    if not _is_embedded(model) or not found or all(size == DRAWN_SIZE for size in sizes):
        return None
    keys = ", ".join(f"evaluation.{key}={value}" for key, value in found.items())
    return f"{keys}: such scorers know drawn portraits only; {FOR_PHOTOS}"


def _drawn_scorers(evaluation: EvaluationConfig) -> dict[str, str]:
    """Key (in ``evaluation``) -> value of the scorers that know the drawn world alone."""
    found = {
        "face.name": ("tiny_face", evaluation.face.name == "tiny_face"),
        "attributes.name": ("tiny_attributes", evaluation.attributes.name == "tiny_attributes"),
        "clip.options.model": (TINY, _is_tiny(evaluation.clip)),
        "image.options.model": (TINY, _is_tiny(evaluation.image)),
    }
    return {key: value for key, (value, is_drawn) in found.items() if is_drawn}


def _is_tiny(scorer: ScorerConfig) -> bool:
    return scorer.name != "none" and scorer.options.get("model") == TINY


def _is_embedded(model: ModelConfig) -> bool:
    """Whether it draws the drawn world, or what it is shown: random weights know nothing yet."""
    return model.path is None or model.path.startswith(EMBEDDED) or bool(model.scratch)


def _has_numbers_of_another(model: ModelConfig) -> bool:
    """Whether ``model.path`` alone was set, so that all numbers are the embedded base's."""
    return not _is_embedded(model) and model.recommended.clip_model == TINY


def _side(config: TrainConfig) -> Iterator[str]:
    """A side far from the model's; unconditional models have that of their pictures."""
    own, side = config.model.recommended.resolution, config.data.resolution
    is_prompted = bool(description_of(config.model.family).tokenizers)
    is_near = LOWEST_SIDE * own <= side <= HIGHEST_SIDE * own
    if is_prompted and not is_near and config.data.buckets.mode != "fixed":
        yield (
            f"data.resolution={side}: this model was trained at {own} pixels; set data.resolution="
            f"{own} (or model.recommended.resolution, if your base is one of another size)"
        )


def _rates(config: TrainConfig) -> Iterator[str]:
    """Rates far from the model's, which are those of adapters (of all weights without prompts)."""
    description, optim = description_of(config.model.family), config.optim
    trains_all = "full" in config.lora.methods(description.trainable).values()
    if optim.name not in RATES_LIKE_ADAMW or trains_all == bool(description.tokenizers):
        return
    for part, rate in trained_rates(optim, config.lora, config.model.family).items():
        own = getattr(config.model.recommended, f"{RATE_OF.get(part, part)}_lr")
        more, less = rate / own, own / rate
        if max(more, less) >= FAR_RATE * (1 - ROUNDING):
            far = (
                f"is {more:.0f} times the model's rate"
                if more > less
                else f"the model's rate is {less:.0f} times as high"
            )
            yield f"optim.{part}_lr={rate:g}: {far}; set optim.{part}_lr={own:g}"


def _warm_up(config: TrainConfig) -> Iterator[str]:
    """A warm-up that the run does not outlast; in epochs its length is not known yet."""
    steps, warm_up = config.trainer.max_steps, config.scheduler.warmup_steps
    is_known = config.trainer.max_epochs is None and config.scheduler.name != "constant"
    if is_known and warm_up >= steps > 1:
        yield (
            f"scheduler.warmup_steps={warm_up}: the run ends after {steps} steps, before its full "
            f"rate; set scheduler.warmup_steps={steps // 10}"
        )


def _finds_its_step(config: TrainConfig) -> Iterator[str]:
    optim = config.optim
    if optim.name not in FINDS_ITS_STEP:
        return
    for part, rate in trained_rates(optim, config.lora, config.model.family).items():
        if not 0.1 <= rate <= 10:
            yield (
                f"optim.{part}_lr={rate:g}: {optim.name} finds its own step size, and this is a "
                f"factor on it; set optim.{part}_lr=1"
            )
