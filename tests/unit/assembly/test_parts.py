"""Single objects from the config."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from sdlora.assembly.base_model import check_training
from sdlora.assembly.device import compute_device
from sdlora.config.rules import ConfigError
from tests.unit.commands.train.test_reuse import train_config


def test_auto_is_what_lightning_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = lightning.Trainer(accelerator="auto", logger=False, enable_checkpointing=False)
    assert compute_device("auto").type == theirs.strategy.root_device.type
    assert compute_device("gpu") == torch.device("cuda")
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    assert compute_device("auto") == compute_device("gpu") == torch.device("mps")
    assert compute_device("cpu") == torch.device("cpu")


def test_nothing_is_compiled_for_a_cpu(random_base: Path) -> None:
    """torch 2.13 gets the gradients of a batch of one wrong there, by 2 to 3 %."""
    on_cpu = train_config(random_base, "trainer.compile=true", "trainer.accelerator=cpu")
    with pytest.raises(ConfigError, match="trainer.compile=True: torch .* set it to false"):
        check_training(on_cpu)
    check_training(train_config(random_base, "trainer.compile=true", "trainer.accelerator=gpu"))
    check_training(train_config(random_base, "trainer.accelerator=cpu"))
