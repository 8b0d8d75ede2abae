"""Each kind of damage to a file of weights is named, and whole files pass."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdlora.weights.soundness import Copy, fault

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
PAGE = b"\n<!DOCTYPE html><html><body>Not Found</body></html>"

PROTOBUF = b"\x08\x07" + b"\x12\x03net" + b"\x3a\x90\x4e" + bytes(10_000) + b"\x25\x00\x00\x80\x3f"
"""Fields 1 (a number), 2 (3 bytes), 7 (10,000 bytes) and 4 (a float) of a message."""


def pytorch(folder: Path) -> bytes:
    torch.save({"w": torch.arange(1000.0)}, folder / "whole.pth")
    return (folder / "whole.pth").read_bytes()


def tensors(folder: Path) -> bytes:
    save_file({"a": torch.arange(1000.0), "b": torch.ones(3)}, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


KINDS = {
    "w.pth": pytorch,
    "w.safetensors": tensors,
    "w.onnx": lambda folder: PROTOBUF,
    "w.caffemodel": lambda folder: PROTOBUF,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_passes_and_a_cut_one_does_not(name: str, tmp_path: Path) -> None:
    data, path = KINDS[name](tmp_path), tmp_path / name
    path.write_bytes(data)
    assert fault(path) is None
    for length in (len(data) - 1, len(data) // 2, 100):
        path.write_bytes(data[:length])
        assert "a download that broke off" in (fault(path) or ""), length


@pytest.mark.parametrize("name", [*KINDS, "w.dat", "w.prototxt"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty, a download that broke off"),
        (POINTER, "is a Git LFS pointer, not the file that it stands for"),
        (PAGE, "is a web page, not weights"),
    ],
)
def test_what_is_no_weights_at_all(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert fault(path) == "is missing"
    path.write_bytes(data)
    assert fault(path) == said


@pytest.mark.parametrize("name", KINDS)
def test_foreign_bytes_are_no_weights(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xff\xffsome other format" * 50)
    assert fault(path) is not None


def test_a_known_copy_counts_more_than_the_form(tmp_path: Path) -> None:
    path = tmp_path / "w.dat"
    path.write_bytes(b"right")
    good = (Copy(5, hashlib.sha256(b"right").hexdigest()), Copy(7))
    assert fault(path, good) is None
    path.write_bytes(b"wrong")
    assert str(fault(path, good)).startswith("is damaged, or another file (its SHA-256 is not ")
    path.write_bytes(b"rig")
    assert fault(path, good) == "has 3 of 5 bytes, a download that broke off"
    path.write_bytes(b"much too long")
    assert fault(path, good) == "is another file (13 bytes instead of 5 or 7)"
    path.write_bytes(b"seven b")
    assert fault(path, good) is None
