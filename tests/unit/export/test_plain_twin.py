"""The plain LoRA that is written beside a DoRA."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from sdlora.adapters.file_writing import adapters_of
from sdlora.adapters.formats import apply_lora, read_lora, read_metadata
from sdlora.export.layouts import export_lora
from sdlora.export.plain_twin import MISSING, file_of_others, write_plain_twin
from sdlora.export.proof import prove_export
from sdlora.models.sd import SD
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    outputs,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)

METADATA = {"ss_base_model_version": "sd_v1", "ss_steps": "7"}


def exported(folder: Path, *, use_dora: bool) -> dict[str, torch.nn.Module]:
    unet = with_lora(tiny_unet(), "unet", ATTENTION, use_dora=use_dora)
    parts = {"unet": unet, "text_encoder": tiny_text_encoder()}
    export_lora(folder, parts=parts, names=SD.trainable, metadata=METADATA, name="face")
    return parts


def test_it_draws_like_the_dora_in_a_program_that_knows_none(tmp_path: Path) -> None:
    parts = exported(tmp_path / "lora", use_dora=True)
    twin = file_of_others(tmp_path / "lora", "face", "lora")
    assert twin.name == "face_plain.safetensors"
    assert not any("dora" in key or "magnitude" in key for key in load_file(twin))
    expected = outputs(parts["unet"], parts["text_encoder"])
    bare = outputs(tiny_unet(), tiny_text_encoder())
    plain = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    apply_lora(plain, read_lora(twin))
    away = (outputs(plain["unet"], plain["text_encoder"]) - expected).norm()
    assert away < 0.1 * (bare - expected).norm()
    assert float(read_metadata(twin)[MISSING]) < 0.05
    assert read_metadata(twin)["ss_network_module"] == "networks.lora"


def test_it_is_not_taken_for_the_dora(tmp_path: Path) -> None:
    parts = exported(tmp_path / "lora", use_dora=True)
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    differences = prove_export(tmp_path / "lora", fresh, parts)
    assert max(differences.values()) < 1e-4
    assert read_lora(tmp_path / "lora").specs["unet"].use_dora


def test_a_plain_lora_has_none(tmp_path: Path) -> None:
    exported(tmp_path / "lora", use_dora=False)
    names = {path.name for path in (tmp_path / "lora").glob("*.safetensors")}
    assert names == {"face.safetensors", "pytorch_lora_weights.safetensors"}


def test_over_quantised_weights_there_is_none(tmp_path: Path) -> None:
    unet = with_lora(tiny_unet(), "unet", ATTENTION, use_dora=True)
    lora = adapters_of({"unet": unet}, METADATA)
    packed = unet.mid_block.resnets[0].conv1  # as bitsandbytes holds it: bytes in one column
    packed.weight = torch.nn.Parameter(
        torch.zeros(packed.weight.numel(), 1, dtype=torch.uint8), requires_grad=False
    )
    assert write_plain_twin(tmp_path, "face", lora, {"unet": unet}) == []
    assert list(tmp_path.iterdir()) == []
