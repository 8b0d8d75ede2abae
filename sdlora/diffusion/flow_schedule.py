"""The straight path of flow matching: levels, noising, velocity target; in float32."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FLOW = "flow"
"""What a model of flow matching predicts: the velocity ``eps - z_0`` of the straight path."""


class FlowSchedule:
    """Rectified flow: ``z_s = (1 - s) z_0 + s eps`` with levels s from 0 (data) to 1 (noise).

    A level is a float32 number. What a network is told of it (``s``, ``1 - s``, ``1000 s``) is its
    family's own.

    Args:
        num_train_timesteps: How many timesteps the levels [0, 1] are counted in, in configs and in
            the samplers of diffusers.

    Source:
        Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747.
    """

    prediction_type = FLOW

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        self.num_train_timesteps = num_train_timesteps

    def sample_timesteps(self, place: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """Levels at places in [0, 1) of the range ``first`` .. ``end``; both ``[B]``.

        Args:
            place: Uniform draws give uniform levels.
            first: Start of the range, in timesteps.
            end: Its end; ``None``: pure noise.

        Returns:
            float32, in [0, 1].
        """
        last = self.num_train_timesteps if end is None else end
        levels = (first + place.double() * (last - first)) / self.num_train_timesteps
        return levels.float()

    def depth(self, t: Tensor) -> Tensor:
        """How far each level is on the way to pure noise: the level itself, ``[B]``."""
        return t

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``1 - s`` and ``s``, float32, broadcastable to ``like``.

        Args:
            t: Levels, shape ``[B]``.
            like: A tensor whose first dimension is ``B``; gives device and number of dimensions.
        """
        s = t.to(like.device, torch.float32).view(-1, *[1] * (like.dim() - 1))
        return 1 - s, s

    def add(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise ``z_0`` to level ``t``, in float32; shapes ``[B, ...]``, ``[B]``."""
        signal, noise = self.signal_and_noise(t, z_0)
        return signal * z_0.float() + noise * eps.float()

    def target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """``eps - z_0``, the same at every level; float32, shape ``[B, ...]``."""
        return eps.float() - z_0.float()

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``((1 - s) / s)**2``, ``[B]``, float32; infinite at 0."""
        s = t.float()
        return ((1 - s) / s).square()


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a diffusers scheduler config is one of flow matching."""
    return str(config.get("_class_name")).startswith("FlowMatch")


def token_points(config: Mapping[str, Any]) -> tuple[tuple[int, float], tuple[int, float]]:
    """The two points (image tokens, mu) between which a model's own config shifts levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = FlowMatchEulerDiscreteScheduler.from_config(dict(config)).config
    return (
        (int(own["base_image_seq_len"]), float(own["base_shift"])),
        (int(own["max_image_seq_len"]), float(own["max_shift"])),
    )
