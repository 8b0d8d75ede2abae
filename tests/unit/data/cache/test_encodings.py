"""Cached tensors are what encoding at every step would give, whatever happened to their files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlora.data.batches.dataset import Batch
from sdlora.data.cache import encoders
from sdlora.data.cache.encoders import (
    CaptionEncoder,
    PictureEncoder,
    encoded_captions,
    encoded_pictures,
)
from sdlora.data.cache.encodings import (
    Cache,
    Encodings,
    Mapped,
    Resident,
    embedding_keys,
    latent_keys,
)
from sdlora.data.cache.tensor_store import TensorStore
from sdlora.data.pictures.cuts import Size, fitted
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress
from tests.configs import data_config
from tests.unit.data.stripes import Stripes, batches, dataset, joined, whole

CPU = torch.device("cpu")


class Encoders:
    """Of a family: a fixed linear map, not the same for mirrored pictures."""

    encoding_dtype = torch.float32
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)

    @contextmanager
    def called(self, *names: str) -> Iterator[None]:
        yield

    def encode_images(self, pixels: Tensor) -> Tensor:
        assert -1.0 <= pixels.min() <= pixels.max() <= 1.0
        weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.conv2d(pixels, weight, stride=4)

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        return token_ids[..., None].float() * torch.tensor([1.0, 0.5])


FAMILY = Encoders()


def in_memory() -> Cache:
    return Cache(store=None, resident_bytes=0, device=CPU)


def on_disk(folder: Path, resident_bytes: int = 2**30) -> Cache:
    said: list[str] = []
    return Cache(
        store=TensorStore(folder, say=said.append), resident_bytes=resident_bytes, device=CPU
    )


def table_of(source: Stripes, cache: Cache, flip: bool = True) -> Resident | Mapped:
    table, left = encoded_pictures(whole(source), data_config(flip=flip), FAMILY, "vae", cache)
    assert left.source is source
    return table


class Unreadable(Stripes):
    """Stripes whose pictures must not be opened any more."""

    def image(self, index: int) -> Image.Image:
        raise AssertionError(f"picture {index} was decoded again")


@pytest.mark.parametrize("where", ["memory", "disk", "mapped"])
def test_cached_samples_equal_encoded_samples(where: str, tmp_path: Path) -> None:
    source = Stripes(10, sizes=((16, 16), (32, 16)))
    cache = in_memory() if where == "memory" else on_disk(tmp_path, (where == "disk") * 2**30)
    plain = dataset(source, bucket=None, flip=True)
    latents = table_of(source, cache)
    assert isinstance(latents, Mapped if where == "mapped" else Resident)
    embeddings = encoded_captions(plain.captions, FAMILY, "text encoder", cache)
    tables = {"latents": latents, "embeddings": embeddings}
    cached = dataset(source, bucket=None, flip=True, **tables)
    for ours, theirs in zip(batches(cached, 12), batches(plain, 12), strict=True):
        assert ours.pixels is None
        assert theirs.pixels is not None
        assert ours.moments is not None
        # convolution sums in another order for another batch size: a few roundings of about 10
        torch.testing.assert_close(
            ours.moments, FAMILY.encode_images(theirs.pixels), atol=1e-5, rtol=0
        )
        assert torch.equal(ours.embeddings, FAMILY.encode_prompts(theirs.token_ids))  # type: ignore[arg-type]
        assert ours.names == theirs.names


@pytest.mark.parametrize(("side", "most"), [(64, 16), (256, 16), (512, 4), (1024, 1), (1536, 1)])
def test_a_batch_has_no_more_pixels_than_a_picture_of_1024(side: int, most: int) -> None:
    sizes = encoders.batch_sizes(whole(Stripes(18, sizes=((side, side),))))
    assert max(sizes.values()) == most
    assert sorted(sizes.values()) == sorted([most] * (18 - 18 % most) + [18 % most] * (18 % most))


def test_another_run_decodes_nothing(tmp_path: Path) -> None:
    first = table_of(Stripes(7), on_disk(tmp_path))
    again = table_of(Unreadable(7), on_disk(tmp_path))
    numbers = torch.arange(14)
    assert torch.equal(again.rows(numbers), first.rows(numbers))


def test_without_a_store_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table_of(Stripes(3), in_memory())
    assert list(tmp_path.iterdir()) == []


def test_whatever_the_latents_depend_on_is_in_the_key() -> None:
    source = Stripes(1, sizes=((32, 16),))

    def cut(bucket: Size, source: Stripes = source) -> PictureSet:
        return whole(source, bucket)

    key = latent_keys(cut((16, 16)), False, "vae")[0]
    aside = replace(cut((16, 16)), geometry=[fitted((32, 16), (16, 16), (0.0, 0.0))])
    others = [
        latent_keys(cut((8, 8)), False, "vae")[0],
        latent_keys(aside, False, "vae")[0],
        latent_keys(cut((16, 16)), False, "another vae")[0],
        latent_keys(cut((16, 16)), True, "vae")[1],
    ]
    changed = Stripes(1, sizes=((32, 16),))
    changed.pictures = [replace(changed.pictures[0], content="changed")]
    others.append(latent_keys(cut((16, 16), changed), False, "vae")[0])
    assert len({key, *others}) == 6
    renamed = Stripes(1, sizes=((32, 16),))
    renamed.pictures = [replace(renamed.pictures[0], name="b.png", text="another")]
    assert latent_keys(cut((16, 16), renamed), False, "vae") == [key]
    assert latent_keys(cut((16, 16)), True, "vae")[0] == key  # switching flips on keeps the rest
    assert embedding_keys(["a"], "x") != embedding_keys(["a"], "y") != embedding_keys(["b"], "y")


class RoundsBySize(Encoders):
    """Of a family whose results depend on the number of pictures in a batch, as a CPU's do."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        return super().encode_images(pixels) + len(pixels)


@pytest.mark.parametrize("before", [(), (3,), (17, 1), (20,)])
def test_a_latent_does_not_depend_on_what_the_cache_held(
    before: tuple[int, ...], tmp_path: Path
) -> None:
    """Neither on other runs that filled it, nor on entries that were lost."""
    data, family = data_config(flip=True), RoundsBySize()

    def latents(count: int, cache: Cache) -> Tensor:
        pictures = whole(Stripes(count))
        table, _ = encoded_pictures(pictures, data, family, "vae", cache)
        return table.rows(torch.arange(2 * count))

    alone = latents(20, in_memory())
    for count in before:
        latents(count, on_disk(tmp_path))
    assert torch.equal(latents(20, on_disk(tmp_path)), alone)
    for shard in list(tmp_path.rglob("*.safetensors"))[::2]:
        shard.unlink()
    assert torch.equal(latents(20, on_disk(tmp_path)), alone)


def test_a_damaged_entry_is_encoded_again(tmp_path: Path) -> None:
    first = table_of(Stripes(5), on_disk(tmp_path))
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    again = table_of(Stripes(5), on_disk(tmp_path))
    assert torch.equal(again.rows(torch.arange(10)), first.rows(torch.arange(10)))
    healed = table_of(Unreadable(5), on_disk(tmp_path))
    assert torch.equal(healed.rows(torch.arange(10)), first.rows(torch.arange(10)))


def test_equal_pictures_are_encoded_once() -> None:
    source = Stripes(4)
    source.pictures = [replace(picture, content="same") for picture in source.pictures]
    seen: list[int] = []
    encoder = PictureEncoder(whole(source), False, FAMILY, in_memory())

    def counted(numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        seen.extend(numbers)
        return encoder(numbers)

    keys = latent_keys(whole(source), False, "vae")
    encodings = Encodings(in_memory())
    encodings.fill(keys, counted)
    assert seen == [0]
    table = encodings.table(keys, counted)
    assert torch.equal(table.rows(torch.tensor([3])), table.rows(torch.tensor([0])))


def test_pictures_that_cannot_be_encoded_are_named_and_the_rest_goes_on() -> None:
    class Broken(Stripes):
        def image(self, index: int) -> Image.Image:
            if index == 2:
                raise PictureError("cannot be decoded (cut off); replace or remove it")
            return super().image(index)

    class NanForFour(Encoders):
        def encode_images(self, pixels: Tensor) -> Tensor:
            moments = super().encode_images(pixels)
            wrong = to_unit_range(to_tensor(Stripes(5).image(4)))[0, 0, 0]
            moments[(pixels[:, 0, 0, 0] == wrong) | (pixels[:, 0, 0, -1] == wrong)] = torch.nan
            return moments

    encoder = PictureEncoder(whole(Broken(6)), True, NanForFour(), in_memory())
    numbers = [number for number, _ in encoder(list(range(12)))]
    assert sorted(numbers) == [0, 1, 2, 3, 6, 7, 10, 11]
    assert {n: finding.kind for n, finding in encoder.faults.items()} == {
        2: "unreadable",
        4: "nan_latents",
    }
    assert str(encoder.faults[2]).startswith("2.png: cannot be decoded (cut off)")


def test_a_set_of_which_nothing_decodes_is_refused_by_name() -> None:
    class Broken(Stripes):
        def image(self, index: int) -> Image.Image:
            raise PictureError("cannot be decoded (cut off)")

    pictures, data = whole(Broken(1)), data_config(root="photos")
    reason = r"^data\.root=photos: no picture can be used:\n  0\.png: cannot be decoded \(cut off\)"
    with pytest.raises(DataError, match=reason):
        encoded_pictures(pictures, data, FAMILY, "vae", in_memory())


def test_every_copy_of_a_picture_that_cannot_be_encoded_is_named() -> None:
    class Broken(Stripes):
        def image(self, index: int) -> Image.Image:
            if index in (1, 3):
                raise PictureError("cannot be decoded (cut off)")
            return super().image(index)

    source = Broken(4)
    source.pictures[3] = replace(source.pictures[3], content=source.pictures[1].content)
    encoder = PictureEncoder(whole(source), True, FAMILY, in_memory())
    Encodings(in_memory()).fill(latent_keys(whole(source), True, "vae"), encoder)
    assert {n: str(finding) for n, finding in encoder.faults.items()} == {
        1: "1.png: cannot be decoded (cut off)",
        3: "3.png: cannot be decoded (cut off)",
    }


def test_a_text_encoder_that_gives_nan_stops_the_run() -> None:
    class Overflows(Encoders):
        def encode_prompts(self, token_ids: Tensor) -> Tensor:
            return token_ids / torch.zeros(1)

    encoder = CaptionEncoder(torch.ones(2, 3), Overflows(), in_memory())
    with pytest.raises(DataError, match="text encoder gives NaN"):
        list(encoder([0, 1]))


def test_a_set_larger_than_the_memory_needs_the_disk(tmp_path: Path) -> None:
    class Full(TensorStore):
        def find(self, keys: Sequence[str]) -> set[str]:
            return set(list(super().find(keys))[:3])

    source = Stripes(5)
    table_of(source, on_disk(tmp_path))
    cache = Cache(store=Full(tmp_path, say=lambda _: None), resident_bytes=0, device=CPU)
    with pytest.raises(DataError, match=r"data\.cache\.dir: 2 encodings could not be written"):
        table_of(source, cache, flip=False)


def test_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_WORTH_WORKERS", 1)
    here = table_of(Stripes(5), in_memory())
    there = table_of(Stripes(5), replace(in_memory(), num_workers=2))
    assert torch.equal(here.rows(torch.arange(10)), there.rows(torch.arange(10)))


def test_progress_ends_without_a_bar_left() -> None:
    with Progress(enabled=False) as progress:
        table_of(Stripes(3), replace(in_memory(), progress=progress))
        assert progress.tasks() == []


def test_rows_of_several_shapes_and_one_device() -> None:
    tensors = [torch.full((n % 2 + 1, 2), float(n)) for n in range(6)]
    resident = Resident(tensors, CPU)
    assert resident.rows(torch.tensor([4, 0, 2])).tolist() == [[[4, 4]], [[0, 0]], [[2, 2]]]
    assert resident.rows(torch.tensor([3])).shape == (1, 2, 2)
    assert joined(batches(dataset(Stripes(1)), 2), "picture_index").tolist() == [0, 0]


def test_tensors_of_other_lengths_are_kept_and_served_as_they_are(tmp_path: Path) -> None:
    """Prompt embeddings without padding, in memory, from the disk, and mapped."""
    own = [torch.arange(length * 2.0).view(length, 2) for length in (3, 5, 3)]
    keys = ["a", "b", "c"]
    store = TensorStore(tmp_path, max_bytes=2**20)
    encodings = Encodings(Cache(store=store, resident_bytes=2**20, device=CPU))
    encodings.fill(keys, lambda numbers: ((n, own[n]) for n in numbers))
    assert store.num_bytes(keys) == sum(each.nbytes for each in own)
    fresh = Encodings(Cache(store=store, resident_bytes=2**20, device=CPU))
    tables = (
        Resident(own, CPU),
        fresh.table(keys, lambda numbers: iter(())),
        Mapped(store.mapped(keys), keys),
    )
    for table in tables:
        unequal = table.rows(torch.tensor([1, 0]))
        assert isinstance(unequal, tuple)
        assert torch.equal(unequal[0], own[1])
        assert torch.equal(unequal[1], own[0])
        assert torch.equal(table.rows(torch.tensor([2, 0])), torch.stack([own[2], own[0]]))


def test_a_batch_moves_embeddings_of_other_lengths() -> None:
    batch = Batch(
        sample_index=torch.arange(2),
        picture_index=torch.arange(2),
        token_ids=torch.zeros(2, 1),
        names=("a", "b"),
        weights=torch.ones(2),
        embeddings=(torch.ones(3, 2), torch.ones(5, 2)),
    )
    moved = batch.to(torch.device("meta"))
    assert moved.embeddings is not None
    assert [each.device.type for each in moved.embeddings] == ["meta", "meta"]
    assert moved.names == ("a", "b")
