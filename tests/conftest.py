"""What every test needs: no network, no leftovers of another test, the repository's folder."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub, which reads it once
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; threads that wait spin

import pytest
import torch

from tests.places import REPOSITORY


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root: where ``train.py``, ``conf/`` and ``examples/`` lie."""
    return REPOSITORY


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep nothing in the user's folders of cache and data, and find nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection but to this machine (``gloo`` and TensorBoard use the loopback)."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):  # type: ignore[index]
            raise AssertionError(f"a test tried to reach {address}: no test needs the network")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _torch_as_found() -> Iterator[None]:
    """Start from one seed, and undo what a test did to torch's global switches."""
    torch.manual_seed(0)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion in the SD1.5 folder layout; read it, never write in it."""
    from tests.models import write_random_base  # brings diffusers, which few tests need

    return write_random_base(tmp_path_factory.mktemp("random-base"))


@pytest.fixture(scope="session")
def random_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion XL in its folder layout; read it, never write in it."""
    from tests.models import write_random_xl

    return write_random_xl(tmp_path_factory.mktemp("random-xl"))


@pytest.fixture(scope="session")
def random_kolors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Kolors in its folder layout; read it, never write in it."""
    from tests.models import write_random_kolors

    return write_random_kolors(tmp_path_factory.mktemp("random-kolors") / "kolors")


@pytest.fixture(scope="session")
def random_z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Z-Image in its folder layout; read it, never write in it."""
    from tests.flow_models import write_random_z_image

    return write_random_z_image(tmp_path_factory.mktemp("random-z-image"))


@pytest.fixture(scope="session")
def random_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random FLUX.2 klein in its folder layout; read it, never write in it."""
    from tests.flow_models import write_random_klein

    return write_random_klein(tmp_path_factory.mktemp("random-klein"))


@pytest.fixture(scope="session")
def random_bases(
    random_base: Path,
    random_xl: Path,
    random_kolors: Path,
    random_z_image: Path,
    random_klein: Path,
) -> dict[str, Path]:
    """A small random base of each model family, by ``model.family``."""
    return {
        "sd": random_base,
        "sdxl": random_xl,
        "kolors": random_kolors,
        "z_image": random_z_image,
        "flux2_klein": random_klein,
    }
