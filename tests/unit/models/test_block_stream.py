"""Blocks that come to the device when they are called, with torch's ``meta`` device as the GPU.

It has shapes and no content, and refuses tensors that are elsewhere, as a real one does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.assembly.family_limits import check_family_limits
from sdlora.config.rules import ConfigError
from sdlora.models import block_stream
from sdlora.models.block_stream import BLOCKS_THERE, BlockStream, blocks_of, streamed_bytes
from sdlora.models.loading import load_family
from sdlora.models.memory import checkpoint_gradients
from sdlora.models.quantising import quantise
from sdlora.models.source import ModelSource
from tests.unit.commands.train.test_reuse import train_config

GPU, CPU = torch.device("meta"), torch.device("cpu")
TARGETS = ("to_q", "to_out.0")
NAMES = ("z_image", "flux2_klein", "sdxl")


def family_of(name: str, bases: dict[str, Path], kind: str | None = None) -> Any:
    """A model with an adapter that has an effect."""
    found = load_family(ModelSource(str(bases[name]), name), 0)
    if kind is not None:
        quantise(found.denoiser, kind)
    add_lora(found.denoiser, LoraSpec(r=2, alpha=2.0, dropout=0.0, targets=TARGETS), seed=0)
    for weight in lora_parameters(found.denoiser).values():
        weight.data = torch.full_like(weight, 0.02)
    checkpoint_gradients(found)
    found.denoiser.train()
    return found


def inputs(family: Any, device: torch.device = CPU) -> tuple[Any, ...]:
    """Latents, levels and conditioning."""
    config, draws = family.denoiser.config, torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws).to(device)

    with torch.no_grad():
        told = family.encode_prompts(family.tokenize(["a man", "a hat"]).ids)
    told = told.to(device) if isinstance(told, Tensor) else [each.to(device) for each in told]
    z, t = drawn(2, config.in_channels, 4, 4), torch.tensor([0.2, 0.7], device=device)
    sizes = torch.full((2, 6), 64.0, device=device)
    return z, t if family.denoiser_name == "transformer" else (t * 900).long(), told, sizes


def gradients(family: Any, given: tuple[Any, ...]) -> list[Tensor]:
    """Those of a step, which are then gone."""
    family.denoise(*given).square().mean().backward()
    found = [weight.grad for weight in lora_parameters(family.denoiser).values()]
    for weight in lora_parameters(family.denoiser).values():
        weight.grad = None
    return [each for each in found if each is not None]


def copied(device: torch.device, weight: nn.Parameter) -> nn.Parameter:
    """As on another device: the same content elsewhere."""
    return nn.Parameter(weight.detach().clone(), requires_grad=False)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(block_stream, "_on", copied)
    return


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize(("name", "kind"), [*((n, None) for n in NAMES), ("z_image", "int8")])
def test_steps_have_the_same_bits(
    name: str, kind: str | None, random_bases: dict[str, Path]
) -> None:
    family = family_of(name, random_bases, kind)
    given = inputs(family)
    expected = gradients(family, given)
    homes = dict(family.denoiser.named_parameters())
    family.stream_blocks()
    for _ in range(3):  # the first without knowing which block is next
        found = gradients(family, given)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        with torch.no_grad():
            family.denoise(*given)  # as drawing does in between
    assert len(found) == len(lora_parameters(family.denoiser))
    after = dict(family.denoiser.named_parameters())
    assert all(after[key] is value for key, value in homes.items())
    family.stream_blocks(False)
    assert all(torch.equal(*pair) for pair in zip(gradients(family, given), expected, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_on_the_device_while_they_compute(
    name: str, random_bases: dict[str, Path]
) -> None:
    """Forward, recomputed and backward; the adapter and all else always are, and no block stays."""
    family = family_of(name, random_bases)
    given = inputs(family, GPU)
    family.stream_blocks()
    family._device = GPU
    family._apply(lambda tensor: tensor.to(GPU))  # as Lightning does with all that it is given
    blocks = blocks_of(family.denoiser)
    streamed = [w for block in blocks for w in block.parameters() if not w.requires_grad]
    others = {id(each) for each in streamed}
    assert {weight.device for weight in streamed} == {CPU}
    assert {w.device for w in family.denoiser.parameters() if id(w) not in others} == {GPU}
    seen: list[int] = []
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda _, __, n=number: seen.append(n))
    for _ in range(2):
        found = gradients(family, given)
        assert {each.device for each in found} == {GPU}
        assert {weight.device for weight in streamed} == {CPU}
    once = len(seen) // 2
    assert once == 2 * len(blocks)  # forwards, and again to be recomputed
    assert seen[:once] == seen[once:]
    here, again = seen[: len(blocks)], seen[len(blocks) : once]
    assert sorted(here) == sorted(again) == list(range(len(blocks)))


def test_the_next_block_is_copied_ahead_in_both_directions(random_bases: dict[str, Path]) -> None:
    """What is copied when a block is called is the one after it, once the order is known."""
    family = family_of("flux2_klein", random_bases)
    given, stream = inputs(family), BlockStream(family.denoiser, lambda: CPU)
    called: list[tuple[int, int | None]] = []
    for number, block in enumerate(blocks_of(family.denoiser)):

        def note(*_: Any, number: int = number) -> None:
            called.append((number, None if stream._coming is None else stream._coming[0]))

        block.register_forward_pre_hook(note)
    gradients(family, given)
    called.clear()
    gradients(family, given)
    gradients(family, given)
    numbers = [number for number, _ in called]
    assert numbers == [0, 1, 2, 2, 1, 0] * 2
    # the turning point is there already, and is copied when it is called again
    assert [ahead for _, ahead in called][1:-1] == [2, None, 1, 0, None, 1, 2, None, 1, 0]
    stream.close()


def test_weights_that_train_or_fail_are_left_alone(random_bases: dict[str, Path]) -> None:
    family = family_of("z_image", random_bases)
    before = dict(family.denoiser.named_parameters())
    family.stream_blocks()
    z, t, told, sizes = inputs(family)
    with pytest.raises(RuntimeError):
        family.denoise(z, t, [each[:, :3] for each in told], sizes)
    blocks = blocks_of(family.denoiser)
    with pytest.raises(TypeError):
        blocks[0]()
    assert all(before[key] is value for key, value in family.denoiser.named_parameters())


def test_bytes_that_need_not_be_there(random_bases: dict[str, Path]) -> None:
    transformer = load_family(ModelSource(str(random_bases["z_image"]), "z_image"), 0).denoiser
    transformer.requires_grad_(False)
    sizes = sorted(sum(w.nbytes for w in each.parameters()) for each in blocks_of(transformer))
    assert len(sizes) == 4
    assert streamed_bytes(transformer, None) == sum(sizes[:-BLOCKS_THERE])
    rounded = streamed_bytes(transformer, "int8")
    quantise(transformer, "int8")
    small = sorted(
        sum(w.nbytes for w in [*each.parameters(), *each.buffers()])
        for each in blocks_of(transformer)
    )
    assert rounded == sum(small[:-BLOCKS_THERE])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("trainer.gradient_checkpointing=false",),
            "brings a block's weights again where its activations are computed again; set "
            "trainer.gradient_checkpointing=true, or this to true",
        ),
        (("trainer.compile=true",), "trainer.compile=false, or this to true"),
        (("model.quantise=nf4",), "brings no layers of bitsandbytes, which keep their weights"),
    ],
)
def test_what_it_does_not_go_with_is_refused(
    overrides: tuple[str, ...], message: str, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdlora.assembly.family_limits.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"^trainer.offload=blocks: ") as error:
        check_family_limits(train_config(random_base, "trainer.offload=blocks", *overrides))
    assert message in str(error.value)
