"""Downloads from a server on this machine: whole and checked, or not at all."""

import bz2
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdlora.runtime.progress import Progress
from sdlora.weights import downloads
from sdlora.weights.downloads import DownloadError, fetch_face_file, fetch_model
from sdlora.weights.face_files import Source
from sdlora.weights.hub_models import FEATURES, PIPELINE, HubModel, cached_folder, model_fault
from sdlora.weights.soundness import Copy
from tests.unit.weights.servers import serving

QUIET = Progress(enabled=False, quiet=True)
DATA = bytes(range(256)) * 9000
GOOD = (Copy(len(DATA), hashlib.sha256(DATA).hexdigest()),)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the file ``a.dat`` goes."""
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    return tmp_path / ".deepface" / "weights" / "a.dat"


def fetched(
    monkeypatch: pytest.MonkeyPatch, urls: list[str], good: tuple[Copy, ...], packing: str | None
) -> str:
    monkeypatch.setitem(downloads.SOURCES, "a.dat", Source(tuple(urls), good, packing))
    return fetch_face_file("a.dat", QUIET)


def test_a_file_lies_where_deepface_looks_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/a.dat": DATA, "/a.dat.bz2": bz2.compress(DATA)}
    with serving(files) as (at, _):
        said = fetched(monkeypatch, [f"{at}/a.dat"], GOOD, None)
        assert said == f"2.2 MiB from {at}/a.dat; size and SHA-256 are the known ones"
        assert place.read_bytes() == DATA
        place.unlink()
        fetched(monkeypatch, [f"{at}/a.dat.bz2"], GOOD, "bz2")
        assert place.read_bytes() == DATA
        said = fetched(monkeypatch, [f"{at}/a.dat"], (), None)
        assert said.endswith("no checksum of it is known")


def test_the_next_address_is_tried(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"/page": b"<html>", "/other": b"other", "/a.dat": DATA}) as (at, asked):
        urls = [f"{at}/nothing", f"{at}/page", f"{at}/other", f"{at}/a.dat"]
        fetched(monkeypatch, urls, GOOD, None)
    assert asked == ["/nothing", "/page", "/other", "/a.dat"]
    assert place.read_bytes() == DATA


def test_a_file_that_cannot_be_had_whole_leaves_the_old_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(b"old")
    packed = bz2.compress(DATA)
    files = {"/a.dat": DATA, "/p.bz2": packed[:-20], "/page": b"<html>", "/wrong": DATA[::-1]}
    with serving(files, cut={"/a.dat": 1_500_000}) as (at, _):
        for path, packing, said in (
            ("a.dat", None, "broke off after 1500000 of 2304000 bytes"),
            ("p.bz2", "bz2", "is half an archive"),
            ("page", None, "is a web page"),
            ("wrong", None, "its SHA-256 is not"),
            ("gone", None, "HTTP Error 404"),
        ):
            with pytest.raises(DownloadError, match=f"^a.dat: {at}/{path}: .*{said}"):
                fetched(monkeypatch, [f"{at}/{path}"], GOOD, packing)
    assert place.read_bytes() == b"old"
    assert list(place.parent.iterdir()) == [place]


def test_a_file_on_google_drive_says_where_and_whereto(place: Path) -> None:
    with pytest.raises(DownloadError, match=r"drive\.google\.com.* put it at .*yolov8n-face\.pt"):
        fetch_face_file("yolov8n-face.pt", QUIET)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A server with two models: a pipeline ``owner/sd``, and ``owner/clip``."""
    save_file({"w": torch.ones(100)}, tmp_path / "w.safetensors")
    weights = (tmp_path / "w.safetensors").read_bytes()
    index = {"unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": ["x", "Y"]}
    files = {
        "/owner/sd/model_index.json": json.dumps(index).encode(),
        "/owner/sd/unet/config.json": b"{}",
        "/owner/sd/unet/diffusion_pytorch_model.safetensors": weights,
        "/owner/sd/safety_checker/model.safetensors": weights,
        "/owner/sd/all-in-one.safetensors": weights,
        "/owner/clip/config.json": b"{}",
        "/owner/clip/model.safetensors": weights,
        "/owner/clip/tf_model.h5": b"x" * 50,
        "/owner/empty/config.json": b"{}",
    }
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serving(files) as (at, asked):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", at)
        template = at + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", at)
        yield at, asked


def test_of_a_model_what_a_run_needs_is_got_once(hub: tuple[str, list[str]]) -> None:
    _, asked = hub
    model = HubModel("owner/sd", PIPELINE)
    assert model_fault(model) is not None
    said = fetch_model(model, QUIET)
    assert said.startswith("3 files, ")
    assert model_fault(model) is None
    folder = cached_folder(model)
    assert folder is not None
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "model_index.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert not any("safety_checker" in path or "all-in-one" in path for path in asked)


def test_a_damaged_file_of_a_model_is_got_again(hub: tuple[str, list[str]]) -> None:
    model = HubModel("owner/clip", FEATURES)
    fetch_model(model, QUIET)
    folder = cached_folder(model)
    assert folder is not None
    weights = (folder / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "broke off" in str(model_fault(model))
    fetch_model(model, QUIET)
    assert model_fault(model) is None


def test_a_model_that_cannot_be_had_says_why(
    hub: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="has no model.safetensors"):
        fetch_model(HubModel("owner/empty", FEATURES), QUIET)
    with pytest.raises(DownloadError, match="no such model on the Hub, or it is private"):
        fetch_model(HubModel("owner/nobody", FEATURES), QUIET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set; unset it"):
        fetch_model(HubModel("owner/clip", FEATURES), QUIET)
