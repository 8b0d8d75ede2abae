"""The forward (noising) process: alphas, signal-to-noise ratio, timesteps; in float32."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class NoiseSchedule:
    """A discrete variance-preserving noise schedule.

    ``z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps`` (Ho et al. 2020, arXiv:2006.11239,
    eq. 4).

    Args:
        alphas_cumprod: ``alpha_bar_t`` for t = 0 .. T-1, shape ``[T]``, in (0, 1] or 0 at the end
            (zero-terminal SNR). Kept in float32, computed in the given precision.
        prediction_type: What the model predicts: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``
            (``z_0`` itself).

    Raises:
        ValueError: If ``prediction_type`` is unknown, or epsilon where a timestep has no signal.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        if prediction_type not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise ValueError(f"prediction_type={prediction_type}: unknown; choose one of {known}")
        if prediction_type == "epsilon" and not bool((alphas_cumprod > 0).all()):
            raise ValueError(
                "prediction_type=epsilon: the noise schedule ends without signal (zero-terminal "
                "SNR), where the noise is the input itself; use v_prediction or sample"
            )
        self.alphas_cumprod = alphas_cumprod.float()
        self._on_device = self.alphas_cumprod
        self.prediction_type = prediction_type

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], prediction_type: str | None = None
    ) -> "NoiseSchedule":
        """Build the schedule of a diffusers ``scheduler_config.json``.

        Args:
            config: The scheduler's config; its betas decide, and ``rescale_betas_zero_snr``, which
                makes the last timestep pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
            prediction_type: Overrides the config's own.
        """
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        return cls(
            scheduler.alphas_cumprod, prediction_type or str(scheduler.config["prediction_type"])
        )

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alphas_cumprod)

    def sample_timesteps(self, place: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """Timesteps at places in [0, 1) of the range ``first`` .. ``end`` - 1; both ``[B]``.

        Args:
            place: Uniform draws give uniform timesteps.
            first: Start of the range.
            end: First timestep after it; ``None``: T.

        Returns:
            int64.
        """
        last = (self.num_train_timesteps if end is None else end) - 1
        steps = first + (place.double() * (last + 1 - first)).long()
        return steps.clamp_(max=last)

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(alpha_bar_t)`` and ``sqrt(1 - alpha_bar_t)``, float32, broadcastable to ``like``.

        Args:
            t: Timesteps, shape ``[B]``, int64.
            like: A tensor whose first dimension is ``B``; gives device and number of dimensions.
        """
        alpha_bar = self._alpha_bar(t.to(like.device)).view(-1, *[1] * (like.dim() - 1))
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise ``z_0`` to level ``t`` (DDPM eq. 4), in float32; shapes ``[B, ...]``, ``[B]``."""
        signal, noise = self.signal_and_noise(t, z_0)
        return signal * z_0.float() + noise * eps.float()

    def depth(self, t: Tensor) -> Tensor:
        """How far each timestep is on the way to pure noise: ``t / T``, ``[B]``."""
        return t / self.num_train_timesteps

    def target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The prediction target at ``z_t``; float32, shape ``[B, ...]``."""
        if self.prediction_type == "epsilon":
            return eps.float()
        if self.prediction_type == "sample":
            return z_0.float()
        signal, noise = self.signal_and_noise(t, z_0)
        return velocity(z_0.float(), eps.float(), signal, noise)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)``, shape ``[B]``, float32."""
        alpha_bar = self._alpha_bar(t)
        return alpha_bar / (1 - alpha_bar)

    def _alpha_bar(self, t: Tensor) -> Tensor:
        """``alpha_bar`` of each timestep, from a copy that stays on the last used device."""
        if self._on_device.device != t.device:
            self._on_device = self.alphas_cumprod.to(t.device)
        return self._on_device[t]


def velocity(z_0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """The v-prediction target ``alpha_t eps - sigma_t z_0``.

    Args:
        z_0: Clean latents, shape ``[B, ...]``.
        eps: Noise, same shape.
        signal: ``alpha_t = sqrt(alpha_bar_t)``, broadcastable.
        noise: ``sigma_t = sqrt(1 - alpha_bar_t)``, broadcastable.

    Source:
        Salimans and Ho 2022, arXiv:2202.00512, section 4.
    """
    return signal * eps - noise * z_0


def changed_schedule(
    config: Mapping[str, Any], prediction_type: str | None, zero_terminal_snr: bool
) -> dict[str, Any]:
    """A diffusers scheduler config with another prediction type or zero-terminal SNR.

    Args:
        config: The model's own.
        prediction_type: ``None``: as in ``config``.
        zero_terminal_snr: Rescale the schedule to end in pure noise, and sample from its very last
            timestep on ("trailing"; Lin et al. 2023, arXiv:2305.08891). ``False``: as in
            ``config``.
    """
    changed = dict(config)
    if prediction_type is not None:
        changed["prediction_type"] = prediction_type
    if zero_terminal_snr:
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return changed


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
