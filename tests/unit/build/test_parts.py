"""Single objects from the config."""

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from sdlora.build.parts import device


def test_auto_is_what_lightning_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = lightning.Trainer(accelerator="auto", logger=False, enable_checkpointing=False)
    assert device("auto").type == theirs.strategy.root_device.type
    assert device("gpu") == torch.device("cuda")
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    assert device("auto") == device("gpu") == torch.device("mps")
    assert device("cpu") == torch.device("cpu")
