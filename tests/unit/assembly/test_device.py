"""Single objects from the config."""

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from sdlora.assembly.device import check_device, compute_device, found_precision
from sdlora.config.rules import ConfigError


def test_auto_is_what_lightning_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = lightning.Trainer(accelerator="auto", logger=False, enable_checkpointing=False)
    assert compute_device("auto").type == theirs.strategy.root_device.type
    assert compute_device("gpu") == torch.device("cuda")
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    assert compute_device("auto") == compute_device("gpu") == torch.device("mps")
    assert compute_device("cpu") == torch.device("cpu")


def test_nothing_is_compiled_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 gets the gradients of a batch of one wrong there, by 2 to 3 %."""
    with pytest.raises(ConfigError, match="trainer.compile=True: torch .* set it to false"):
        check_device("cpu", "fp32", compiles=True)
    check_device("cpu", "fp32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device("gpu", "fp32", compiles=True)


@pytest.mark.parametrize(
    ("accelerator", "cuda", "bf16", "expected"),
    [
        ("auto", True, True, "bf16"),
        ("gpu", True, True, "bf16"),
        ("auto", True, False, "fp16"),  # such as a T4
        ("cpu", True, True, "fp32"),
        ("auto", False, False, "fp32"),
        ("gpu", False, False, "fp32"),  # refused by check_device
        ("mps", False, False, "fp32"),
    ],
)
def test_auto_is_the_best_precision_of_the_device(
    accelerator: str, cuda: bool, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: accelerator == "mps")
    assert found_precision("auto", accelerator, "sd") == expected
    flow = "fp32" if expected == "fp16" else expected  # it overflows there
    assert found_precision("auto", accelerator, "z_image") == flow
    assert found_precision("fp16", accelerator, "sd") == "fp16"
