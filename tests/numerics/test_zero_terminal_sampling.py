"""Training and sampling share a zero-terminal schedule: a perfect model is sampled along it.

Where all data is one point z_0, the best prediction is known: z_t tells eps exactly. A sampler
without noise of its own must then pass, at each timestep it visits, through the very z_t that
training would have made there from z_0 and the noise that it began with.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sdlora.diffusion.noise_schedule import NoiseSchedule, changed_schedule
from sdlora.sampling.samplers import SAMPLERS

# diffusers 0.42 gives tensors to numpy functions, which torch 2.13 answers in the old protocol
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

SD15 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
UNABLE = ("pndm", "heun", "dpm2", "dpm2_a", "deis")
RANDOM = ("ddpm", "euler_a", "dpm++_sde", "dpm++_sde_karras")
KARRAS = ("dpm++_karras",)  # visits noise levels between the timesteps
NO_X0 = ("pndm", "euler_a", "dpm2", "dpm2_a")


def worst_distance(
    sampler: str, noise: NoiseSchedule, config: dict[str, Any], z_0: Tensor
) -> tuple[float, list[int]]:
    """How far the sampler's path is from that of training; and the timesteps that it visits."""
    scheduler = SAMPLERS[sampler](config)
    scheduler.set_timesteps(20)
    draw = torch.Generator().manual_seed(3)
    start = torch.randn(z_0.shape, generator=draw)
    x, worst = start * scheduler.init_noise_sigma, 0.0
    for t in scheduler.timesteps:
        z_t = scheduler.scale_model_input(x, t)
        a, s = noise.signal_and_noise(t.long().view(1), z_t)
        worst = max(worst, (z_t - (a * z_0 + s * start)).abs().max().item())
        eps = (z_t - a * z_0) / s
        prediction = z_0 if noise.prediction_type == "sample" else a * eps - s * z_0
        options = {"generator": draw} if sampler in RANDOM else {}
        x = scheduler.step(prediction, t, x, **options).prev_sample
    assert x.isfinite().all()
    return worst, scheduler.timesteps.long().tolist()


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in UNABLE])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_a_perfect_model_is_sampled_along_the_path_of_training(
    sampler: str, prediction_type: str
) -> None:
    config = changed_schedule(SD15, prediction_type, zero_terminal_snr=True)
    noise = NoiseSchedule.from_config(config)
    z_0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) + 2
    if prediction_type == "sample" and sampler in NO_X0:
        with pytest.raises(ValueError, match="does not support prediction_type=sample; set"):
            SAMPLERS[sampler](config)
        return
    worst, visited = worst_distance(sampler, noise, config, z_0)
    assert visited[0] == 999
    if sampler in RANDOM or sampler in KARRAS:
        return  # finite, from the last timestep on: no more is known of their path
    # z_0 of about 4 and float32; euler, dpm++ and unipc begin at SNR 2**-24 in place of 0
    assert worst < 2e-3
    other, _ = worst_distance(sampler, noise, {**config, "rescale_betas_zero_snr": False}, z_0)
    assert other > 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_cannot_are_refused(sampler: str) -> None:
    config = changed_schedule(SD15, "v_prediction", zero_terminal_snr=True)
    if sampler in UNABLE:
        message = (
            "does not support schedules of zero-terminal SNR; set sampling.sampler to one of ddim"
        )
        with pytest.raises(ValueError, match=message):
            SAMPLERS[sampler](config)
    else:
        assert SAMPLERS[sampler](config).config["rescale_betas_zero_snr"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_x0_prediction_is_refused_where_diffusers_would_stop_at_the_first_step(
    sampler: str,
) -> None:
    """The list of what cannot is checked against diffusers itself."""
    scheduler = SAMPLERS[sampler](SD15)
    scheduler.register_to_config(prediction_type="sample")
    scheduler.set_timesteps(3)
    x, t = torch.ones(1, 4, 8, 8), scheduler.timesteps[0]
    scheduler.scale_model_input(x, t)
    if sampler in NO_X0:
        with pytest.raises((ValueError, NotImplementedError)):
            scheduler.step(x, t, x)
        with pytest.raises(ValueError, match="prediction_type=sample"):
            SAMPLERS[sampler]({**SD15, "prediction_type": "sample"})
    else:
        scheduler.step(x, t, x)
        SAMPLERS[sampler]({**SD15, "prediction_type": "sample"})
