"""The typed schema of the group ``objective``: target, weights, error, noise and timesteps."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import given, of, where
from sdlora.config.rules import require, require_choice, require_count, require_rate


@dataclass(slots=True, kw_only=True)
class ErrorConfig:
    """Error function of the difference between prediction and target."""

    name: str = MISSING
    """Error of each latent entry: ``l2`` (squared), ``huber`` or ``smooth_l1``, which grow linearly
    where the difference is large and so weigh outliers less."""
    threshold: float = field(default=MISSING, metadata=where(of(".name", "huber", "smooth_l1")))
    """Difference at which ``huber`` and ``smooth_l1`` turn from squared to linear; > 0."""
    schedule: str = field(default=MISSING, metadata=where(of(".name", "huber", "smooth_l1")))
    """Threshold by noise level: ``constant``; ``exponential`` or ``snr``: from 1 without noise to
    ``threshold`` at pure noise."""

    def __post_init__(self) -> None:
        require_choice("objective.error.name", self.name, ("l2", "huber", "smooth_l1"))
        require_rate("objective.error.threshold", self.threshold)
        known = ("constant", "exponential", "snr")
        require_choice("objective.error.schedule", self.schedule, known)


@dataclass(slots=True, kw_only=True)
class NoiseConfig:
    """What is added to the standard normal training noise."""

    offset: float = MISSING
    """Standard deviation of offset noise (one draw per channel), with which brightness is learnt;
    0: off. 0.05 to 0.1 are usual; [0, inf)."""
    pyramid_iterations: int = MISSING
    """Levels of pyramid (multi-resolution) noise, including the finest; 0: off, else >= 2."""
    pyramid_discount: float = field(default=MISSING, metadata=where(given(".pyramid_iterations")))
    """Factor from each level of pyramid noise to the next coarser one; (0, 1)."""
    perturbation: float = MISSING
    """Standard deviation of input perturbation, noise that the model sees and need not predict;
    0: off. 0.1 is usual; [0, inf)."""

    def __post_init__(self) -> None:
        for name in ("offset", "perturbation"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0,
                f"objective.noise.{name}",
                value,
                "must be a finite number >= 0; 0 is off",
            )
        require(
            self.pyramid_iterations == 0 or self.pyramid_iterations >= 2,
            "objective.noise.pyramid_iterations",
            self.pyramid_iterations,
            "must be 0 (off) or >= 2: the first level is the noise's own size; 6 is usual",
        )
        require(
            0 < self.pyramid_discount < 1,
            "objective.noise.pyramid_discount",
            self.pyramid_discount,
            "must be a number between 0 and 1, both excluded; 0.3 is usual",
        )
        require(
            not (self.offset and self.pyramid_iterations),
            "objective.noise.offset",
            self.offset,
            "and pyramid noise both add coarse noise; set objective.noise.offset=0 or "
            "objective.noise.pyramid_iterations=0",
        )


@dataclass(slots=True, kw_only=True)
class TimestepsConfig:
    """Distribution of the training timesteps."""

    name: str = MISSING
    """Distribution of the timesteps, or of the levels of flow matching in thousandths: ``uniform``,
    ``logit_normal`` (the middle more often; ``sigmoid`` in kohya), ``mode`` (by ``mode_scale``) or
    ``bins`` (by ``bin_weights``)."""
    min_timestep: int = MISSING
    """First trained timestep; >= 0, where 0 has the least noise."""
    max_timestep: int | None = None
    """End of the trained timesteps, not included; ``null``: to the end (1000 in SD)."""
    logit_mean: float = field(default=MISSING, metadata=where(of(".name", "logit_normal")))
    """Mean of the logit of ``logit_normal``: 0 is symmetric, above 0 noisier timesteps are more
    likely."""
    logit_std: float = field(default=MISSING, metadata=where(of(".name", "logit_normal")))
    """Standard deviation of the logit of ``logit_normal``: the smaller, the narrower the
    distribution of timesteps; > 0."""
    mode_scale: float = field(default=MISSING, metadata=where(of(".name", "mode")))
    """Scale of ``mode``: above 0 the middle more often, below 0 the ends, 0 uniform; [-1, 1.75]
    (1.29 in SD 3's paper)."""
    bin_weights: list[float] = field(default_factory=list)
    """Relative likelihood of each equal bin of the range for ``bins``, least noise first; >= 0."""
    shift: str = MISSING
    """Of flow matching, how drawn levels are moved towards pure noise, s to ``k s / (1 + (k - 1)
    s)``: ``none``, ``constant`` (k is ``shift_factor``) or ``tokens`` (k = exp(mu) by the number of
    image tokens, a token for 16 x 16 pixels, as ``shift_points`` say)."""
    shift_factor: float = field(default=MISSING, metadata=where(of(".shift", "constant")))
    """k of ``constant``; > 0. Above 1 noisier, 1 leaves the levels."""
    shift_points: list[Any] = field(default_factory=list)  # OmegaConf takes [256, 0.5] for no list
    """Two points of the straight line of mu for ``tokens``, each image tokens and mu, such as
    ``[[256,0.5],[4096,1.15]]``; empty: those of the model's own scheduler."""

    def __post_init__(self) -> None:
        key = "objective.timesteps"
        require_choice(f"{key}.name", self.name, ("uniform", "logit_normal", "mode", "bins"))
        require_count(f"{key}.min_timestep", self.min_timestep, 0)
        require(
            self.max_timestep is None or self.max_timestep > self.min_timestep,
            f"{key}.max_timestep",
            self.max_timestep,
            f"must be above {key}.min_timestep={self.min_timestep}, or null for the last",
        )
        finite = math.isfinite(self.logit_mean)
        require(finite, f"{key}.logit_mean", self.logit_mean, "must be a finite number")
        require_rate(f"{key}.logit_std", self.logit_std)
        require(
            -1 <= self.mode_scale <= 1.75,
            f"{key}.mode_scale",
            self.mode_scale,
            "must be a number from -1 to 1.75; 1.29 is the paper's",
        )
        self._check_shift(key)
        require(
            all(math.isfinite(weight) and weight >= 0 for weight in self.bin_weights),
            f"{key}.bin_weights",
            self.bin_weights,
            "must be finite numbers >= 0",
        )
        by_bins = self.name == "bins"
        require(
            not by_bins or (len(self.bin_weights) >= 2 and sum(self.bin_weights) > 0),
            f"{key}.bin_weights",
            self.bin_weights,
            "give a weight for each of at least two bins, one of them above 0, such as [1,2,1]",
        )
        require(
            by_bins or not self.bin_weights,
            f"{key}.bin_weights",
            self.bin_weights,
            f"takes no part in {key}.name={self.name}; set {key}.name=bins, or leave it empty",
        )

    def _check_shift(self, key: str) -> None:
        require_choice(f"{key}.shift", self.shift, ("none", "constant", "tokens"))
        require_rate(f"{key}.shift_factor", self.shift_factor)
        points = self.shift_points
        require(
            not points or _are_points(points),
            f"{key}.shift_points",
            points,
            "must be two points of other numbers of tokens, such as [[256,0.5],[4096,1.15]], or []",
        )
        require(
            not points or self.shift == "tokens",
            f"{key}.shift_points",
            points,
            f"takes no part in {key}.shift={self.shift}; set {key}.shift=tokens, or leave it empty",
        )


def _are_points(points: list[Any]) -> bool:
    """Whether these are two pairs of finite numbers with different first ones."""
    pairs = [point for point in points if isinstance(point, list) and len(point) == 2]
    numbers = [number for pair in pairs for number in pair]
    are_numbers = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    return len(pairs) == len(points) == 2 and are_numbers and pairs[0][0] != pairs[1][0]


@dataclass(slots=True, kw_only=True)
class ObjectiveConfig:
    """The training loss: target, weight by noise level, error, noise and timesteps."""

    prediction_type: str | None = None
    """``epsilon``, ``v_prediction`` or ``sample`` (the clean latents); ``null`` follows the model's
    own noise schedule."""
    zero_terminal_snr: bool = MISSING
    """Rescale the noise schedule so that its last timestep is pure noise, for training and for
    sampling; needs ``v_prediction`` or ``sample``. ``false`` follows the model's own."""
    min_snr_gamma: float | None = None
    """Cap of the min-SNR loss weight (5 in the paper); ``null`` is off. > 0."""
    weighting: str | None = None
    """A loss weight instead of min-SNR: ``debiased`` or ``p2``, or, of flow matching, ``bell`` (the
    middle levels more) or ``table`` (by ``weight_table``); ``null``: none."""
    weight_table: list[float] = field(default_factory=list)
    """Weights of ``table`` at equal distances from no noise to pure noise, linear between; >= 0."""
    p2_gamma: float = field(default=MISSING, metadata=where(of(".weighting", "p2")))
    """Exponent of ``p2``: how strongly low noise levels are down-weighted (1 in the paper); > 0."""
    p2_k: float = field(default=MISSING, metadata=where(of(".weighting", "p2")))
    """Constant ``k`` of ``p2``: the larger, the more even the weights of all noise levels (1 in the
    paper); > 0."""
    error: ErrorConfig = MISSING
    noise: NoiseConfig = MISSING
    timesteps: TimestepsConfig = MISSING

    def __post_init__(self) -> None:
        if self.prediction_type is not None:
            known = ("epsilon", "v_prediction", "sample")
            require_choice("objective.prediction_type", self.prediction_type, known)
        if self.min_snr_gamma is not None:
            require_rate("objective.min_snr_gamma", self.min_snr_gamma)
        require_rate("objective.p2_gamma", self.p2_gamma)
        require_rate("objective.p2_k", self.p2_k)
        if self.weighting is not None:
            weights = ("debiased", "p2", "bell", "table")
            require_choice("objective.weighting", self.weighting, weights)
            require(
                self.min_snr_gamma is None,
                "objective.weighting",
                self.weighting,
                f"and objective.min_snr_gamma={self.min_snr_gamma} are two weights for one loss; "
                "set objective.min_snr_gamma=null or objective.weighting=null",
            )
        self._check_table()
        require(
            not (self.zero_terminal_snr and self.prediction_type == "epsilon"),
            "objective.zero_terminal_snr",
            True,
            "with objective.prediction_type=epsilon the last timestep has nothing to learn, and "
            "min-SNR and debiased weights divide by its SNR of 0; set "
            "objective.prediction_type=v_prediction or objective.zero_terminal_snr=false",
        )

    def _check_table(self) -> None:
        weights, by_table = self.weight_table, self.weighting == "table"
        is_usable = len(weights) >= 2 and all(math.isfinite(w) and w >= 0 for w in weights)
        require(
            not by_table or (is_usable and sum(weights) > 0),
            "objective.weight_table",
            weights,
            "give at least two finite numbers >= 0, one of them above 0, such as [0.5,1.5,0.5]",
        )
        require(
            by_table or not weights,
            "objective.weight_table",
            weights,
            f"takes no part in objective.weighting={self.weighting}; set "
            "objective.weighting=table, or leave it empty",
        )
