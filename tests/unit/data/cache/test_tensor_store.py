"""What is stored comes back as it was, or is missing and said; nothing else, whatever breaks."""

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlora.data.cache.shards import StoreError
from sdlora.data.cache.tensor_store import TensorStore


def key_of(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def tensor_of(number: int) -> Tensor:
    """Shapes of two aspect buckets in turn; never two alike."""
    shape = [(8, 4, 6), (8, 6, 4)][number % 2]
    return torch.full(shape, float(number)) + torch.arange(192.0).view(shape) / 256


def entries(*numbers: int) -> dict[str, Tensor]:
    return {key_of(number): tensor_of(number) for number in numbers}


def fill(folder: Path, *numbers: int) -> Path:
    """Write one shard, and give its path."""
    before = shards_in(folder)
    with TensorStore(folder, say=refuse).writer() as writer:
        for key, tensor in entries(*numbers).items():
            writer.put(key, tensor)
    (new,) = shards_in(folder) - before
    return new


def shards_in(folder: Path) -> set[Path]:
    return set(folder.glob("v1-*.safetensors"))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype
        for key in expected
    )


def refuse(message: str) -> None:
    raise AssertionError(f"nothing should be said, but: {message}")


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start another Python process with pipes to its stdin and stdout."""
    preamble = "import os, sys, signal\nfrom pathlib import Path\nimport torch\n"
    preamble += "from sdlora.data.cache.tensor_store import TensorStore\n"
    return subprocess.Popen(
        [sys.executable, "-c", preamble + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


no_kill = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(8, 64, 96), (77, 768), (3,), (), (0, 4)])
def test_dtype_and_shape_come_back(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    stored = {key_of(0): (torch.randn(shape) * 100).to(dtype)}
    with TensorStore(tmp_path, say=refuse).writer() as writer:
        writer.put(*next(iter(stored.items())))
    store = TensorStore(tmp_path, say=refuse)
    assert same(store.load([key_of(0)]), stored)
    assert same(dict(store.mapped([key_of(0)])), stored)
    assert store.num_bytes([key_of(0)]) == stored[key_of(0)].nbytes


def test_odd_bit_patterns_come_back(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1], dtype=torch.int32)
    with TensorStore(tmp_path).writer() as writer:
        writer.put(key_of(0), bits.view(torch.float32))  # a NaN with payload, inf, -0, denormal
    loaded = TensorStore(tmp_path).load([key_of(0)])[key_of(0)]
    assert torch.equal(loaded.view(torch.int32), bits)


def test_dtypes_and_sizes_mix_in_one_shard(tmp_path: Path) -> None:
    stored = {
        key_of(0): torch.randn(3).bfloat16(),  # 6 bytes: what follows is not aligned by itself
        key_of(1): torch.randn(5, 7),
        key_of(2): torch.tensor([True, False, True]),
        key_of(3): torch.randn(1).half(),
    }
    with TensorStore(tmp_path).writer() as writer:
        for key, tensor in stored.items():
            writer.put(key, tensor)
    assert len(shards_in(tmp_path)) == 1
    assert same(TensorStore(tmp_path, say=refuse).load(list(stored)), stored)


def test_a_copy_is_taken_of_what_is_put(tmp_path: Path) -> None:
    batch = torch.arange(24.0).view(2, 3, 4)
    expected = {key_of(0): batch[0].clone(), key_of(1): batch[1].t().clone()}
    with TensorStore(tmp_path).writer() as writer:
        writer.put(key_of(0), batch[0].requires_grad_())  # views of one storage
        writer.put(key_of(1), batch[1].t())
        batch.zero_()
    assert same(TensorStore(tmp_path).load(list(expected)), expected)


def test_find_tells_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    fill(tmp_path, 2)
    store = TensorStore(tmp_path, say=refuse)
    wanted = [key_of(number) for number in (0, 2, 2, 5)]
    assert store.find(wanted) == {key_of(0), key_of(2)}
    assert store.num_bytes(wanted) == 2 * 192 * 4
    assert same(store.load(wanted), entries(0, 2))
    assert store.find([]) == set()
    assert TensorStore(tmp_path / "nowhere", say=refuse).find(wanted) == set()


def test_shards_are_cut_by_number_and_by_size(tmp_path: Path) -> None:
    for folder, limits in (("a", {"shard_entries": 4}), ("b", {"shard_bytes": 4 * 192 * 4})):
        with TensorStore(tmp_path / folder).writer(**limits) as writer:
            for key, tensor in entries(*range(10)).items():
                writer.put(key, tensor)
        assert len(shards_in(tmp_path / folder)) == 3
        found = TensorStore(tmp_path / folder).load([key_of(n) for n in range(10)])
        assert same(found, entries(*range(10)))


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    store = TensorStore(tmp_path)
    with store.writer() as writer:
        writer.put(key_of(0), tensor_of(0))
    assert len(shards_in(tmp_path)) == 1
    with store.writer() as writer:
        writer.put(key_of(2), tensor_of(2))
        writer.put(key_of(2), tensor_of(2))
    assert same(store.load([key_of(n) for n in range(3)]), entries(0, 1, 2))


def test_an_open_store_sees_what_others_write_and_remove(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, say=refuse)
    first = fill(tmp_path, 0)
    assert store.find([key_of(0)]) == {key_of(0)}
    first.unlink()
    fill(tmp_path, 1)
    assert store.find([key_of(0), key_of(1)]) == {key_of(1)}
    assert same(store.load([key_of(0), key_of(1)]), entries(1))


def test_an_error_keeps_what_was_put_before(tmp_path: Path) -> None:
    def half_way() -> None:
        with TensorStore(tmp_path).writer() as writer:
            writer.put(key_of(0), tensor_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_way()
    assert same(TensorStore(tmp_path, say=refuse).load([key_of(0)]), entries(0))


def spans_of(shard: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Where the values begin, and first and last byte of each, as safetensors lays them out."""
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    spans = {key: entry["data_offsets"] for key, entry in header.items()}
    return 8 + length, {key: (8 + length + a, 8 + length + b) for key, (a, b) in spans.items()}


def flip(path: Path, offset: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_a_flipped_byte_loses_one_entry_and_is_said_once(
    tmp_path: Path, part: float, mask: int
) -> None:
    fill(tmp_path, 10, 11)
    shard = fill(tmp_path, *range(5))
    start, end = spans_of(shard)[1][key_of(3)]
    flip(shard, start + round(part * (end - 1 - start)), mask)
    wanted = [key_of(n) for n in (0, 1, 2, 3, 4, 10, 11)]
    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    assert same(store.load(wanted), entries(0, 1, 2, 4, 10, 11))
    assert len(said) == 1
    assert key_of(3) in said[0]
    assert "checksum" in said[0]
    assert store.find(wanted) == entries(0, 1, 2, 4, 10, 11).keys()
    with store.writer() as writer:  # as its user does with what is missing
        writer.put(key_of(3), tensor_of(3))
    for later in (store, TensorStore(tmp_path, say=refuse)):
        assert same(later.load(wanted), entries(0, 1, 2, 3, 4, 10, 11))
    assert len(said) == 1


def test_several_damaged_entries_are_said_together(tmp_path: Path) -> None:
    for first in (0, 10):
        shard = fill(tmp_path, *range(first, first + 4))
        for number in (first, first + 1):
            flip(shard, spans_of(shard)[1][key_of(number)][0])
    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    found = store.load([key_of(n) for n in (0, 1, 2, 3, 10, 11, 12, 13)])
    assert same(found, entries(2, 3, 12, 13))
    assert len(said) == 1
    assert "4 entries" in said[0]


def test_damage_that_nobody_asked_for_is_found_in_the_same_shard(tmp_path: Path) -> None:
    shard = fill(tmp_path, *range(4))
    for number in (0, 1):
        flip(shard, spans_of(shard)[1][key_of(number)][0])
    store = TensorStore(tmp_path, say=lambda message: None)
    assert store.load([key_of(0)]) == {}
    assert store.find([key_of(n) for n in range(4)]) == {key_of(2), key_of(3)}


def test_what_was_repaired_is_in_use_like_the_rest(tmp_path: Path) -> None:
    shard = fill(tmp_path, 0, 1)
    flip(shard, spans_of(shard)[1][key_of(1)][0])
    store = TensorStore(tmp_path, max_bytes=0, say=lambda message: None)
    assert same(store.load([key_of(0), key_of(1)]), entries(0))
    assert store.evict() == 0
    assert same(store.load([key_of(0)]), entries(0))


def test_every_entry_may_be_damaged(tmp_path: Path) -> None:
    shard = fill(tmp_path, 0)
    flip(shard, shard.stat().st_size - 1)
    said: list[str] = []
    assert TensorStore(tmp_path, say=said.append).load([key_of(0)]) == {}
    assert len(said) == 1
    assert shards_in(tmp_path) == set()


def cut(part: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(part * path.stat().st_size))


def cut_header(path: Path) -> None:
    os.truncate(path, spans_of(path)[0] // 2)


def cut_one_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def header_not_json(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"!" * (spans_of(path)[0] - 8) + data[spans_of(path)[0] :])


def another_shape(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text.replace(b"[8,4,6]", b"[6,4,8]", 1))  # as many values: valid safetensors


def another_dtype(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))


def another_key(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(key_of(0).encode(), key_of(99).encode()))


def another_checksum(path: Path) -> None:
    text = path.read_bytes()
    at = text.index(b'"checksums":"') + len(b'"checksums":"')
    path.write_bytes(text[:at] + (b"1" if text[at : at + 1] != b"1" else b"2") + text[at + 1 :])


WHOLE_SHARD = {
    "cut to nothing": cut(0.0),
    "cut in the length": lambda path: os.truncate(path, 5),
    "cut behind the length": lambda path: os.truncate(path, 8),
    "cut in the header": cut_header,
    "cut at the header's end": lambda path: os.truncate(path, spans_of(path)[0]),
    "cut in the middle": cut(0.7),
    "cut by one byte": cut_one_byte,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "length of 2**56": lambda path: flip(path, 7),
    "length one less": lambda path: flip(path, 0, 0x08),
    "header not JSON": header_not_json,
    "another shape": another_shape,
    "another dtype": another_dtype,
    "another key": another_key,
    "another checksum": another_checksum,
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000)),
    "a page": lambda path: path.write_text("<html>404</html>", encoding="utf-8"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", WHOLE_SHARD.values(), ids=WHOLE_SHARD.keys())
def test_a_damaged_file_is_missing_and_said(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    fill(tmp_path, 10, 11)
    shard = fill(tmp_path, 0, 1)
    damage(shard)
    wanted = [key_of(n) for n in (0, 1, 10, 11, 99)]
    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    assert store.find(wanted) == entries(10, 11).keys()
    assert same(store.load(wanted), entries(10, 11))
    assert same(dict(store.mapped(wanted)), entries(10, 11))
    assert len(said) == 1
    assert shard.name in said[0]
    with store.writer() as writer:
        for key, tensor in entries(0, 1).items():
            writer.put(key, tensor)
    assert same(TensorStore(tmp_path, say=refuse).load(wanted), entries(0, 1, 10, 11))


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    shard = fill(tmp_path, 0, 1)
    whole = shard.read_bytes()
    draw = random.Random(0)
    for offset in [*range(8), *draw.sample(range(8, len(whole)), 60)]:
        shard.write_bytes(whole)
        flip(shard, offset, 1 << draw.randrange(8))
        said: list[str] = []
        found = TensorStore(tmp_path, say=said.append).load([key_of(0), key_of(1)])
        assert len(said) == 1, offset
        assert len(found) < 2
        assert same(found, {key: entries(0, 1)[key] for key in found})
        for left in shards_in(tmp_path):
            left.unlink()


def test_damage_after_the_opening_is_found(tmp_path: Path) -> None:
    shard, other = fill(tmp_path, 0, 1), fill(tmp_path, 2)
    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    flip(shard, shard.stat().st_size - 1)
    cut_one_byte(other)
    assert len(store.load([key_of(n) for n in range(3)])) == 1
    assert len(said) == 2


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    mine = tmp_path / "my_model.safetensors"
    mine.write_bytes(b"mine")
    (tmp_path / "notes").mkdir()
    store = TensorStore(tmp_path, max_bytes=0, say=refuse)
    assert store.find([key_of(1)]) == set()
    assert store.evict() == 1
    assert mine.read_bytes() == b"mine"


def test_mapped_is_what_is_loaded_and_damage_names_the_entry(tmp_path: Path) -> None:
    shard = fill(tmp_path, *range(5))
    flip(shard, spans_of(shard)[1][key_of(3)][0])
    wanted = [key_of(n) for n in range(5)]
    mapped = TensorStore(tmp_path, say=refuse).mapped(wanted)
    assert len(mapped) == 5
    assert key_of(3) in mapped
    held = mapped[key_of(0)]
    with pytest.raises(StoreError, match=f"{key_of(3)}.*checksum.*run again"):
        mapped[key_of(3)]
    with pytest.raises(KeyError, match="not in the cache"):
        mapped[key_of(77)]
    assert torch.equal(held, tensor_of(0))
    assert same(dict(mapped), entries(0, 1, 2, 4))
    store = TensorStore(tmp_path, say=refuse)  # the next run misses it, and makes it again
    assert store.find(wanted) == entries(0, 1, 2, 4).keys()
    assert same(store.load(wanted), entries(0, 1, 2, 4))


def test_a_mapping_can_be_handed_to_another_process(tmp_path: Path) -> None:
    fill(tmp_path, *range(3))
    mapped = TensorStore(tmp_path).mapped([key_of(n) for n in range(3)])
    assert torch.equal(mapped[key_of(0)], tensor_of(0))
    handed = pickle.dumps(mapped)
    assert len(handed) < 3000  # paths and checksums, no tensors
    code = """
        import pickle
        mapped = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(sum(tensor.sum().item() for tensor in mapped.values()))
    """
    with python(code, handed.hex()) as child:
        printed = child.communicate()[0]
    total = sum(tensor_of(n).double().sum().item() for n in range(3))
    assert float(printed) == pytest.approx(total, rel=1e-6)  # float32 sums


def test_more_shards_than_file_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        fill(tmp_path, number)
    monkeypatch.setattr("sdlora.data.cache.tensor_store.spare_handles", lambda: 2)
    mapped = TensorStore(tmp_path, say=refuse).mapped([key_of(n) for n in range(4)])
    for _ in range(2):
        assert same(dict(mapped), entries(*range(4)))


def test_a_file_cut_while_it_is_read_is_an_error_that_names_the_entry(tmp_path: Path) -> None:
    shard = fill(tmp_path, 0, 1)
    mapped = TensorStore(tmp_path, say=refuse).mapped([key_of(0), key_of(1)])
    cut_one_byte(shard)
    lost = max(spans_of(shard)[1].items(), key=lambda item: item[1])[0]
    with pytest.raises(StoreError, match=f"{lost}.*run again"):
        mapped[lost]


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is in use")
def test_a_mapping_outlives_the_removal_of_its_files(tmp_path: Path) -> None:
    shard = fill(tmp_path, 0, 1)
    mapped = TensorStore(tmp_path).mapped([key_of(0), key_of(1)])
    shard.unlink()  # as by another process that evicts
    assert same(dict(mapped), entries(0, 1))


def test_writing_to_a_loaded_tensor_never_reaches_the_disk(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    store = TensorStore(tmp_path)
    store.load([key_of(0)])[key_of(0)].zero_()
    assert same(TensorStore(tmp_path, say=refuse).load([key_of(0)]), entries(0))


@no_kill
def test_a_killed_writer_leaves_whole_shards_only(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    code = """
        import sdlora.runtime.files
        def killed(path):  # when the first half of the second shard is on disk
            if len(list(Path(sys.argv[1]).glob("v1-*"))) == 2:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        sdlora.runtime.files._sync = killed
        with TensorStore(Path(sys.argv[1])).writer(shard_entries=2) as writer:
            for number in range(100, 120):
                writer.put(f"{number:064d}", torch.full((8, 4, 6), float(number)))
    """
    with python(code, tmp_path) as child:
        assert child.wait() == -signal.SIGKILL
    (half,) = tmp_path.glob(".writing-*")
    store = TensorStore(tmp_path, say=refuse)
    keys = [f"{number:064d}" for number in range(100, 120)]
    assert store.find(keys) == set(keys[:2])
    assert all((t == 100 + n).all() for n, t in enumerate(store.load(keys).values()))
    assert same(store.load([key_of(0), key_of(1)]), entries(0, 1))
    assert half.exists()  # it might be a living writer's
    os.utime(half, (1e9, 1e9))
    TensorStore(tmp_path, say=refuse)
    assert not half.exists()


def test_two_processes_write_the_same_keys_at_once(tmp_path: Path) -> None:
    code = """
        print("ready", flush=True)
        sys.stdin.readline()
        with TensorStore(Path(sys.argv[1])).writer(shard_entries=7) as writer:
            for number in range(100):
                writer.put(f"{number:064d}", torch.full((8, 4, 6), float(number)))
    """
    with python(code, tmp_path) as one, python(code, tmp_path) as other:
        for child in (one, other):
            assert line_of(child) == "ready\n"
        for child in (one, other):
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.communicate()[0] for child in (one, other)] == ["", ""]
    keys = [f"{number:064d}" for number in range(100)]
    loaded = TensorStore(tmp_path, say=refuse).load(keys)
    assert len(loaded) == 100
    assert all(torch.equal(loaded[k], torch.full((8, 4, 6), float(n))) for n, k in enumerate(keys))
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_full_disk_is_said_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fill(tmp_path, 0)
    before = set(tmp_path.iterdir())

    attempts: list[Path] = []

    def full(path: Path, data: bytes) -> int:
        attempts.append(path)
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for _ in range(2):
            with store.writer(shard_entries=2) as writer:
                for key, tensor in entries(*range(1, 12)).items():
                    writer.put(key, tensor)
    assert set(tmp_path.iterdir()) == before
    assert len(attempts) == 2  # a writer tries once: on a full disk each try takes its time
    assert len(said) == 1
    assert os.strerror(number) in said[0]
    assert store.find([key_of(n) for n in range(12)]) == {key_of(0)}
    with store.writer() as writer:  # there is room again
        writer.put(key_of(1), tensor_of(1))
    assert same(store.load([key_of(0), key_of(1)]), entries(0, 1))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_write_that_the_system_cuts_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        store = TensorStore(Path(sys.argv[1]))
        with store.writer() as writer:
            writer.put("0" * 64, torch.zeros(100_000))
        with store.writer() as writer:
            writer.put("1" * 64, torch.zeros(1000))
        print(sorted(store.load(["0" * 64, "1" * 64])) == ["1" * 64])
    """
    with python(code, tmp_path) as child:
        said, right = child.communicate()[0].splitlines()
    assert "cannot be written" in said
    assert right == "True"
    assert len(list(tmp_path.iterdir())) == 1


def test_damage_on_a_full_disk_loses_no_sound_entry_of_this_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = fill(tmp_path, 0, 1, 2)
    flip(shard, spans_of(shard)[1][key_of(1)][0])

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    said: list[str] = []
    store = TensorStore(tmp_path, say=said.append)
    wanted = [key_of(n) for n in range(3)]
    assert same(store.load(wanted), entries(0, 2))
    assert len(said) == 2
    assert key_of(1) not in store.find(wanted)  # so that its user makes it again


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    said: list[str] = []
    store = TensorStore(tmp_path / "file" / "cache", say=said.append)
    with store.filling("latents"), store.writer() as writer:
        writer.put(key_of(0), tensor_of(0))
    assert store.find([key_of(0)]) == set()
    assert store.load([key_of(0)]) == {}
    assert len([message for message in said if "written" in message]) == 1
    assert len(said) <= 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    shards = [fill(tmp_path, number) for number in range(5)]
    for age, number in enumerate((2, 0, 4, 1, 3)):
        os.utime(shards[number], ns=(10**18 + age, 10**18 + age))
    size = shards[0].stat().st_size
    assert {shard.stat().st_size for shard in shards} == {size}
    TensorStore(tmp_path).load([key_of(0)])  # a use, by what might be another process
    store = TensorStore(tmp_path, max_bytes=3 * size, say=refuse)
    assert store.evict() == 2
    assert store.find([key_of(n) for n in range(5)]) == {key_of(0), key_of(1), key_of(3)}
    assert store.evict() == 0
    assert TensorStore(tmp_path).evict() == 0  # no limit


@pytest.mark.parametrize("use", ["find", "load", "mapped", "write"])
def test_what_this_process_uses_stays(tmp_path: Path, use: str) -> None:
    for number in range(3):
        if not (use == "write" and number == 1):
            fill(tmp_path, number)
    said: list[str] = []
    store = TensorStore(tmp_path, max_bytes=0, say=said.append)
    if use == "write":
        with store.writer() as writer:
            writer.put(key_of(1), tensor_of(1))
    else:
        getattr(store, use)([key_of(1)])
    assert store.evict() == 2
    assert store.find([key_of(n) for n in range(3)]) == {key_of(1)}
    assert store.evict() == 0
    assert len(said) == 1
    assert "data.cache.max_gib" in said[0]
    assert TensorStore(tmp_path, max_bytes=0, say=refuse).evict() == 1  # that process has ended


def test_a_set_is_filled_by_one_and_found_by_the_other(tmp_path: Path) -> None:
    code = """
        store = TensorStore(Path(sys.argv[1]), say=lambda message: print(message, flush=True))
        with store.filling("latents"):
            print(len(store.find(["0" * 64])), flush=True)
    """
    store = TensorStore(tmp_path)
    with ExitStack() as stack:
        with store.filling("latents"):
            child = stack.enter_context(python(code, tmp_path))
            assert "waiting" in line_of(child)
            with store.writer() as writer:
                writer.put("0" * 64, tensor_of(0))
        assert child.communicate()[0] == "1\n"
    with TensorStore(tmp_path, say=refuse).filling("latents"):  # free again, nothing to say
        pass


@no_kill
def test_a_killed_owner_frees_the_lock(tmp_path: Path) -> None:
    code = """
        with TensorStore(Path(sys.argv[1])).filling("latents"):
            print("filling", flush=True)
            sys.stdin.readline()
    """
    said: list[str] = []

    def killing(message: str) -> None:
        said.append(message)
        owner.kill()

    with python(code, tmp_path) as owner:
        assert line_of(owner) == "filling\n"
        with TensorStore(tmp_path, say=killing).filling("latents"):
            assert owner.wait() == -signal.SIGKILL
    assert len(said) == 1
    assert "latents" in said[0]


def test_sets_of_two_names_are_filled_side_by_side(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, say=refuse)
    with store.filling("latents"), store.filling("embeddings"):
        pass
    with pytest.raises(ValueError, match=r"name='\.\./x'"), store.filling("../x"):
        pass
