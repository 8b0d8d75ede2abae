"""Parts that wait in main memory, with torch's ``meta`` device as the GPU.

It has shapes and no content, and refuses tensors that are elsewhere, as a real one does.
"""

from typing import Any

import pytest
import torch
from torch import nn

from sdlora.generate import Prompt, generate
from sdlora.models.offload import Offload
from sdlora.models.sd import StableDiffusion

GPU = torch.device("meta")
CPU = torch.device("cpu")


@pytest.fixture
def on_gpu(family: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> StableDiffusion:
    moved = nn.Module.to

    def to(module: nn.Module, device: Any, *args: Any, **kwargs: Any) -> nn.Module:
        if torch.device(device) == CPU:  # torch refuses, as there is no content to bring
            module.to_empty(device=CPU)
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data.zero_()
            return module
        return moved(module, device, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", to)
    family.to(GPU)
    return family


def places(family: StableDiffusion) -> dict[str, torch.device]:
    """Where each part is, all of it."""
    found = {}
    for name, part in family.named_children():
        [found[name]] = {tensor.device for tensor in part.state_dict().values()}
    return found


def test_a_call_brings_a_part_and_sends_the_one_before_away(on_gpu: StableDiffusion) -> None:
    family = on_gpu
    offload = Offload([family.text_encoder, family.vae], GPU)
    assert places(family) == {"vae": CPU, "text_encoder": CPU, "unet": GPU}
    family.to(GPU)  # as Lightning does
    offload.send_away()
    assert places(family) == {"vae": CPU, "text_encoder": CPU, "unet": GPU}

    told = family.encode_prompts(torch.zeros(2, 77, dtype=torch.int64, device=GPU))
    assert told.device == GPU
    assert places(family) == {"vae": CPU, "text_encoder": GPU, "unet": GPU}

    z = torch.zeros(2, family.unet.config.in_channels, 8, 8, device=GPU)
    noise = family.denoise(z, torch.zeros(2, dtype=torch.int64, device=GPU), told)
    assert places(family) == {"vae": CPU, "text_encoder": GPU, "unet": GPU}

    assert family.vae.decode(noise).sample.device == GPU
    assert places(family) == {"vae": GPU, "text_encoder": CPU, "unet": GPU}
    assert family.encode_images(torch.zeros(1, 3, 64, 64)).device == GPU

    offload.send_away()
    assert places(family) == {"vae": CPU, "text_encoder": CPU, "unet": GPU}
    assert family.encode_images(torch.zeros(1, 3, 64, 64)).device == GPU


def test_afterwards_a_part_stays_where_it_is_put(on_gpu: StableDiffusion) -> None:
    offload = Offload([on_gpu.text_encoder, on_gpu.vae], GPU)
    offload.end()
    told = on_gpu.encode_prompts(torch.zeros(2, 77, dtype=torch.int64))
    assert told.device == CPU
    on_gpu.to(GPU)
    assert set(places(on_gpu).values()) == {GPU}


def test_pictures_are_the_same(family: StableDiffusion) -> None:
    def drawn() -> list[bytes]:
        pictures = generate(
            family.pipeline(),
            [Prompt("a man", 0), Prompt("a woman", 1), Prompt("a dog", 2)],
            negative_prompt="",
            num_steps=2,
            guidance_scale=3.0,
            sampler="ddim",
            resolution=32,
            batch_size=2,
        )
        return [picture.tobytes() for picture in pictures]

    before = drawn()
    offload = Offload([family.text_encoder, family.vae], CPU)
    assert drawn() == before
    offload.end()
    assert drawn() == before
