"""The random base, loaded: read from disk once, a fresh copy for each test."""

import copy
from pathlib import Path

import pytest

from sdlora.models.loading import load_family
from sdlora.models.sd import StableDiffusion
from sdlora.models.source import ModelSource


@pytest.fixture(scope="session")
def loaded_family(random_base: Path) -> StableDiffusion:
    """Read it, never change it."""
    return load_family(ModelSource(path=str(random_base)), seed=0)


@pytest.fixture
def family(loaded_family: StableDiffusion) -> StableDiffusion:
    """Frozen, without adapters; the test's own."""
    return copy.deepcopy(loaded_family)
