"""Parts that lie on the device one at a time, with torch's ``meta`` device as the GPU.

It has shapes and no content, and refuses tensors that are elsewhere, as a real one does.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdlora.data.cache.encoders import encoded_captions, encoded_pictures
from sdlora.data.cache.encodings import Cache
from sdlora.evaluation import evaluator
from sdlora.evaluation.evaluator import Evaluator
from sdlora.models.drawing import Drawing
from sdlora.models.sd import StableDiffusion
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt
from tests.configs import data_config
from tests.sampling import sampling_config
from tests.unit.data.stripes import Stripes, dataset, whole

GPU = torch.device("meta")
CPU = torch.device("cpu")


@pytest.fixture
def with_gpu(family: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> StableDiffusion:
    """A model in main memory that can go to the GPU and come back."""
    moved = nn.Module.to

    def to(module: nn.Module, device: Any, *args: Any, **kwargs: Any) -> nn.Module:
        if torch.device(device) == CPU:  # torch refuses, as there is no content to bring
            if any(tensor.is_meta for tensor in module.state_dict().values()):
                module.to_empty(device=CPU)
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data.zero_()
            return module
        return moved(module, device, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", to)
    return family


def on_gpu(family: StableDiffusion) -> list[str]:
    """The parts that are on the GPU, each of them whole."""
    found = []
    for name, part in family.named_children():
        [device] = {tensor.device for tensor in part.state_dict().values()}
        found += [name] if device == GPU else []
    return found


ALL = ("unet", "vae", "text_encoder")


def test_parts_are_there_while_they_are_called(with_gpu: StableDiffusion) -> None:
    family = with_gpu
    family.place(GPU)
    assert sorted(on_gpu(family)) == sorted(ALL)
    family.place(GPU, ("vae", "text_encoder"))
    assert on_gpu(family) == ["unet"]
    with family.called("vae", "text_encoder", "unet"):
        assert sorted(on_gpu(family)) == sorted(ALL)
        with family.called("vae"):
            pass
        assert "vae" in on_gpu(family)  # the outer block has it still
        told = family.encode_prompts(torch.zeros(2, 77, dtype=torch.int64, device=GPU))
        assert told.device == GPU
    assert on_gpu(family) == ["unet"]
    family.to(GPU)  # as Lightning does with all that it is given
    assert on_gpu(family) == ["unet"]
    z = torch.zeros(2, family.unet.config.in_channels, 8, 8, device=GPU)
    noise = family.denoise(z, torch.zeros(2, dtype=torch.int64, device=GPU), told)
    assert noise.device == GPU
    with family.called("vae"):
        assert family.vae.decode(noise).sample.device == GPU
    with pytest.raises(KeyError), family.called("vae"):
        raise KeyError("whatever ends the block")
    assert on_gpu(family) == ["unet"]
    with family.in_main_memory():
        assert on_gpu(family) == []
    assert on_gpu(family) == ["unet"]


def test_where_they_do_not_fit_none_comes(
    with_gpu: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu.place(GPU, ("text_encoder", "vae"))
    usual = with_gpu.vae.to

    def half(device: Any) -> None:
        if torch.device(device) == GPU:
            with_gpu.vae.encoder.to(GPU)
            raise torch.OutOfMemoryError("no room for the rest")
        usual(device)

    monkeypatch.setattr(with_gpu.vae, "to", half)
    with pytest.raises(torch.OutOfMemoryError), with_gpu.called("text_encoder", "vae"):
        pytest.fail("they are not there")
    assert on_gpu(with_gpu) == ["unet"]


def test_the_largest_part_alone_is_there_at_each_phase(
    with_gpu: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, captions and prompts are encoded, then it draws: never is all of it there."""
    family, phases = with_gpu, []

    def encode_images(pixels: Tensor) -> Tensor:
        phases.append(("pictures", on_gpu(family)))
        return torch.zeros(len(pixels), 8, 2, 2)

    def encode_prompts(token_ids: Tensor) -> Tensor:
        phases.append(("prompts", on_gpu(family)))
        return torch.ones(*token_ids.shape, 4)

    def generate(pipeline: Any, prompts: Sequence[Prompt], *_: Any, drawing: Drawing, **__: Any):  # type: ignore[no-untyped-def]
        drawing.encode([prompt.text for prompt in prompts])
        phases.append(("drawing", on_gpu(family)))
        return []

    monkeypatch.setattr(family, "encode_images", encode_images)
    monkeypatch.setattr(family, "encode_prompts", encode_prompts)
    monkeypatch.setattr(evaluator, "generate", generate)
    monkeypatch.setattr(Evaluator, "_in_precision", lambda _: nullcontext())  # there is none of it
    family.keep_prompts(True)
    family.place(GPU, ALL)
    cache = Cache(store=None, resident_bytes=0, device=CPU)
    source = Stripes(3)
    encoded_pictures(whole(source), data_config(flip=False), family, "vae", cache)
    encoded_captions(dataset(source, bucket=None).captions, family, "text encoder", cache)
    draws = Evaluator(
        family=family,
        sampling=sampling_config(guidance_scale=3.0),
        prompts=[Prompt("a cat", 0), Prompt("a dog", 1)],
        resolution=32,
        precision=torch.float32,
        scorer=None,  # type: ignore[arg-type]
        progress=Progress(enabled=False),
    )
    draws.encode_prompts()
    assert {(what, *there) for what, there in phases} == {
        ("pictures", "vae"),
        ("prompts", "text_encoder"),
    }
    phases.clear()
    family.place(GPU, ("vae", "text_encoder"))
    draws._pictures(draws.prompts)
    [(what, there)] = phases
    assert what == "drawing"
    assert sorted(there) == ["unet", "vae"]
    assert on_gpu(family) == ["unet"]


def test_kept_prompts_are_those_that_are_encoded(family: StableDiffusion) -> None:
    plain = family.encode_texts(["a cat", "a dog"])["prompt_embeds"]
    family.keep_prompts(True)
    first, again = (family.encode_texts(["a cat", "a dog"])["prompt_embeds"] for _ in range(2))
    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    family.text_encoder.requires_grad_(False)
    for weight in family.text_encoder.parameters():
        weight.zero_()
    assert torch.equal(family.encode_texts(["a cat", "a dog"])["prompt_embeds"], plain)
    family.keep_prompts(False)
    assert not torch.equal(family.encode_texts(["a cat", "a dog"])["prompt_embeds"], plain)
