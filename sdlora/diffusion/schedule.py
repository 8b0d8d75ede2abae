"""The questions that every noise schedule answers, and the schedule of a model's config."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from sdlora.diffusion.flow_schedule import FlowSchedule, is_flow
from sdlora.diffusion.noise_schedule import NoiseSchedule


class Schedule(Protocol):
    """A forward process: how data is noised, and what there is to predict.

    ``t`` is the schedule's own measure of a noise level, ``[B]``: a timestep (int64) of a discrete
    schedule, a level in [0, 1] (float32) of flow matching. A family hands it to its network.
    """

    prediction_type: str

    @property
    def num_train_timesteps(self) -> int:
        """How many timesteps a range is counted in."""
        ...

    def sample_timesteps(self, place: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """Noise levels at places in [0, 1) of a range of timesteps; both ``[B]``."""
        ...

    def depth(self, t: Tensor) -> Tensor:
        """How far each level is on the way to pure noise, in [0, 1], ``[B]``."""
        ...

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of ``z_0`` and of the noise, float32, broadcastable to ``like``."""
        ...

    def add(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """``z_0`` noised to level ``t``, float32, ``[B, ...]``."""
        ...

    def target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the model should predict there, float32, ``[B, ...]``."""
        ...

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio, ``[B]``, float32."""
        ...


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a diffusers ``scheduler_config.json``."""
    if is_flow(config):
        return FlowSchedule(int(config.get("num_train_timesteps", 1000)))
    return NoiseSchedule.from_config(config)
