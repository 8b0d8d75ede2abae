"""Cached latents are what encoding on every step would give."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdlora.data.cache import LatentCache
from sdlora.data.dataset import PictureDataset
from sdlora.data.sources import PortraitSource
from sdlora.progress import Progress

SOURCE = PortraitSource(10, size=32)


def tokenize(captions: list[str]) -> Tensor:
    return torch.tensor([[len(caption), 1, 2] for caption in captions])


def encode_images(pixels: Tensor) -> Tensor:
    """Like a VAE: a fixed linear map, not the same for mirrored pictures."""
    assert -1.0 <= pixels.min() <= pixels.max() <= 1.0
    weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.conv2d(pixels, weight, stride=4)


def encode_prompts(ids: Tensor) -> Tensor:
    return ids[..., None].float() * torch.tensor([1.0, 0.5])


def make(**changes: object) -> PictureDataset:
    settings = {"resolution": 32, "flip": True, "caption_dropout": 0.3, "seed": 0} | changes
    return PictureDataset(SOURCE, tokenize, **settings)


def build(dataset: PictureDataset, **changes: object) -> LatentCache:
    return LatentCache.build(dataset, encode_images, encode_prompts, batch_size=4, **changes)


def test_cached_samples_equal_encoded_samples() -> None:
    plain = make().__getitems__(range(37))
    cached = make().with_cache(build(make())).__getitems__(range(37))
    assert cached.pixels is None
    # convolution sums in another order for another batch size: a few float32 roundings of ~10
    torch.testing.assert_close(cached.moments, encode_images(plain.pixels), atol=1e-5, rtol=0)
    assert torch.equal(cached.embeddings, encode_prompts(plain.token_ids))
    assert torch.equal(cached.token_ids, plain.token_ids)
    assert cached.names == plain.names


def test_dropped_captions_use_the_embedding_of_the_empty_caption() -> None:
    cache = build(make())
    assert cache.captions[0] == ""
    dataset = PictureDataset(
        SOURCE, tokenize, resolution=32, caption_dropout=1.0, cache=replace(cache)
    )
    embeddings = dataset.__getitems__(range(5)).embeddings
    assert torch.equal(embeddings, encode_prompts(tokenize([""])).expand(5, -1, -1))


def test_shapes_and_what_is_left_out() -> None:
    cache = build(make())
    assert cache.moments.shape == (10, 2, 8, 8, 8)
    assert cache.moments.dtype == torch.float32
    only_latents = LatentCache.build(make(flip=False), encode_images)
    assert only_latents.moments.shape == (10, 1, 8, 8, 8)
    assert only_latents.embeddings is None
    assert make(flip=False).with_cache(only_latents)[0].embeddings is None


def test_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdlora.data.cache._WORTH_WORKERS", 1)
    here, there = build(make()), build(make(), num_workers=2)
    assert torch.equal(here.moments, there.moments)


def test_nan_names_every_picture_concerned() -> None:
    def broken(pixels: Tensor) -> Tensor:
        moments = encode_images(pixels)
        moments[1] = torch.nan
        return moments

    with pytest.raises(ValueError, match="3 picture") as raised:
        LatentCache.build(make(), broken, batch_size=4)
    assert "portrait-0000001, portrait-0000005, portrait-0000009" in str(raised.value)
    with pytest.raises(ValueError, match="text encoder gives NaN"):
        LatentCache.build(make(), encode_images, lambda ids: ids[..., None] / torch.zeros(1))


def test_progress_ends_without_a_bar_left() -> None:
    with Progress(enabled=False) as progress:
        build(make(), progress=progress)
        assert progress.tasks() == []


def test_a_cache_of_something_else_is_refused() -> None:
    cache = build(make())
    with pytest.raises(ValueError, match=r"data\.crop=random"):
        make(crop="random").with_cache(cache)
    with pytest.raises(ValueError, match=r"data\.crop=random"):
        build(make(crop="random"))
    with pytest.raises(ValueError, match=r"data\.resolution=16"):
        make(resolution=16).with_cache(cache)
    with pytest.raises(ValueError, match=r"data\.flip=true"):
        make().with_cache(build(make(flip=False)))
    others = PictureDataset(PortraitSource(10, first_seed=1), tokenize, resolution=32)
    with pytest.raises(ValueError, match="other pictures or captions"):
        others.with_cache(cache)
