"""Parts that wait in main memory, with torch's ``meta`` device as the GPU.

It has shapes and no content, and refuses tensors that are elsewhere, as a real one does.
"""

from typing import Any

import pytest
import torch
from torch import nn

from sdlora.models.memory import Offload
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


AWAY = {"vae": CPU, "text_encoder": CPU, "unet": GPU}
THERE = {"vae": GPU, "text_encoder": GPU, "unet": GPU}


def test_parts_are_there_while_they_are_called(on_gpu: StableDiffusion) -> None:
    family = on_gpu
    offload = Offload([family.text_encoder, family.vae], GPU)
    assert places(family) == THERE
    offload.send_away()
    assert places(family) == AWAY
    with offload.called():
        assert places(family) == THERE
        told = family.encode_prompts(torch.zeros(2, 77, dtype=torch.int64, device=GPU))
        assert told.device == GPU
    assert places(family) == AWAY
    z = torch.zeros(2, family.unet.config.in_channels, 8, 8, device=GPU)
    noise = family.denoise(z, torch.zeros(2, dtype=torch.int64, device=GPU), told)
    assert noise.device == GPU
    with offload.called():
        assert family.vae.decode(noise).sample.device == GPU
    with pytest.raises(KeyError), offload.called():
        raise KeyError("whatever ends the block")
    assert places(family) == AWAY


def test_where_they_do_not_fit_none_comes(
    on_gpu: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    offload = Offload([on_gpu.text_encoder, on_gpu.vae], GPU)
    offload.send_away()
    usual = on_gpu.vae.to

    def half(device: Any) -> None:
        if torch.device(device) == GPU:
            on_gpu.vae.encoder.to(GPU)
            raise torch.OutOfMemoryError("no room for the rest")
        usual(device)

    monkeypatch.setattr(on_gpu.vae, "to", half)
    with pytest.raises(torch.OutOfMemoryError), offload.called():
        pytest.fail("they are not there")
    assert places(on_gpu) == AWAY


def test_nothing_waits_where_nothing_is_named(family: StableDiffusion) -> None:
    with Offload([], CPU).called():
        assert set(places(family).values()) == {CPU}
