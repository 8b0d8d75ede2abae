"""Config checks for flow matching: what it has of its own, and what it has no use for."""

from sdlora.config.rules import require
from sdlora.config.train import TrainConfig
from sdlora.models.description import FamilyDescription

OF_FLOW = ("bell", "table")
"""Loss weights by the level of flow matching."""


def check_flow_limits(config: TrainConfig, description: FamilyDescription) -> None:
    """Refuse keys that the family's kind of noise schedule does not have.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    if description.is_flow:
        _check_flow(config, description.kind)
    else:
        _check_discrete(config, description)


def _check_flow(config: TrainConfig, kind: str) -> None:
    objective, model, noise = config.objective, config.model, config.objective.noise
    ends = "its levels end in pure noise by themselves"
    predicts = f"{kind} predicts the velocity of flow matching and nothing else"
    by_snr = "weighs timesteps of a discrete schedule by their SNR; of flow matching"
    attention = "choose lora=attention, without lora.new_word.name"
    no_words = f"{kind}'s language model learns no words; {attention}"
    needless = f"adds noise so that brightness is learnt; {kind} is trained at pure noise anyway"
    small = f"{kind} learns nothing in its few bits of exponent (kohya-ss/musubi-tuner #769)"
    weights = "set it to null; objective=bell weighs by level"
    rules = {
        "objective.prediction_type": (objective.prediction_type, None, f"{predicts}; leave it out"),
        "model.prediction_type": (model.prediction_type, None, f"{predicts}; leave it out"),
        "objective.zero_terminal_snr": (
            objective.zero_terminal_snr,
            False,
            f"{ends}; set it to false",
        ),
        "model.zero_terminal_snr": (model.zero_terminal_snr, None, f"{ends}; leave it out"),
        "objective.min_snr_gamma": (objective.min_snr_gamma, None, f"{by_snr} {weights}"),
        "objective.noise.offset": (noise.offset, 0, f"{needless}; set it to 0"),
        "objective.noise.pyramid_iterations": (
            noise.pyramid_iterations,
            0,
            f"{needless}; set it to 0",
        ),
        "lora.new_word.name": (config.lora.new_word.name, None, no_words),
    }
    for key, (value, needed, remedy) in rules.items():
        require(value == needed, key, value, remedy)
    require(
        not config.lora.use_dora or config.lora.type != "lora",
        "lora.use_dora",
        True,
        f"diffusers drops the magnitudes from files of {kind}; set it to false",
    )
    require(
        objective.weighting in (None, *OF_FLOW),
        "objective.weighting",
        objective.weighting,
        f"{by_snr} {weights}",
    )
    require(
        config.trainer.precision != "fp16",
        "trainer.precision",
        "fp16",
        f"{small}; set it to bf16, or to fp32",
    )
    require(
        config.sampling.sampler == "euler",
        "sampling.sampler",
        config.sampling.sampler,
        f"{kind}'s pipeline draws with the straight steps of flow matching; set it to euler",
    )


def _check_discrete(config: TrainConfig, description: FamilyDescription) -> None:
    objective, kind = config.objective, description.kind
    steps = objective.timesteps
    require(
        objective.weighting not in OF_FLOW,
        "objective.weighting",
        objective.weighting,
        f"weighs levels of flow matching, which {kind} does not have; set it to debiased, p2 or "
        "null",
    )
    require(
        steps.shift == "none",
        "objective.timesteps.shift",
        steps.shift,
        f"moves levels of flow matching, which {kind} does not have; set it to none",
    )
    require(
        config.optim.transformer_lr is None,
        "optim.transformer_lr",
        config.optim.transformer_lr,
        f"{kind} has no transformer; set optim.{description.denoiser}_lr, and this to null",
    )
