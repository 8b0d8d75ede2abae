"""Exports of LoHa, LoKr and OFT, and files of 16 bits: proved, with a plain LoRA for the others."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.adapters import folding
from sdlora.adapters.file_writing import adapters_of, write_diffusers
from sdlora.adapters.formats import (
    apply_lora,
    read_lora,
    read_metadata,
    remove_lora,
    restore_lora,
)
from sdlora.adapters.lora import add_lora, lora_state_dict
from sdlora.adapters.lora_places import trained_file
from sdlora.adapters.spec import LoraSpec
from sdlora.export import same_adapters
from sdlora.export.layouts import export_lora
from sdlora.export.lora_files import write_lora
from sdlora.export.plain_twin import MISSING, file_of_others
from sdlora.export.proof import ExportError, prove_export
from sdlora.export.proof import outputs as outputs_of
from sdlora.models.families import description_of
from sdlora.models.loading import load_family
from sdlora.models.sd import SD
from sdlora.models.source import ModelSource
from tests.unit.adapters.test_adapter_types import TYPES, adapted, both, drawn
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    randomise,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)

METADATA = {"ss_base_model_version": "sd_v1"}
LOST = {"loha": 0.002, "lokr": 0.002, "oft": 0.1}
"""Largest share of the update's effect that the plain LoRA lacks, here."""


def exported(parts: dict[str, nn.Module], folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    export_lora(
        folder, parts=parts, names=SD.trainable, metadata=METADATA, name="face", dtype=dtype
    )
    return folder


@pytest.mark.parametrize("name", TYPES)
def test_an_export_is_proved_and_each_reader_gets_its_file(name: str, tmp_path: Path) -> None:
    parts = both(name)
    folder = exported(parts, tmp_path / "lora")
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    found = prove_export(folder, fresh, parts)
    assert set(found) == {f"{way}/{part}" for way in ("kohya", "peft") for part in parts}
    assert max(found.values()) < 1e-5

    expected, bare = drawn(parts), drawn({"unet": tiny_unet(), "text_encoder": tiny_text_encoder()})
    pipeline = fresh()
    pipeline.load_lora_weights(str(folder))  # as its users do: the plain LoRA
    off = drawn({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}) - expected
    assert off.norm() < LOST[name] * (bare - expected).norm()
    assert float(read_metadata(folder / "face_plain.safetensors")[MISSING]) < LOST[name]
    plain, beside = load_file(folder / "face_plain.safetensors"), folder / "face.safetensors"
    assert not any(word in key for key in plain for word in ("hada", "lokr", "oft"))
    others = "face_plain.safetensors" if name == "oft" else "face.safetensors"
    assert file_of_others(folder, "face", name).name == others

    assert trained_file(folder) == beside
    again = both(name, seed=3)
    restore_lora(again, read_lora(folder))  # the folder means the adapter, not the plain LoRA
    torch.testing.assert_close(drawn(again), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", TYPES)
def test_with_alpha_as_the_rank_a_file_gives_the_bits_back(name: str, tmp_path: Path) -> None:
    """So the step that was kept is the step that is exported."""
    unet = adapted(name, tiny_unet(), "unet", alpha=4.0)
    file = write_diffusers(
        tmp_path / "kept.safetensors", parts={"unet": unet}, names=SD.trainable, metadata={}
    )
    other = {"unet": adapted(name, tiny_unet(), "unet", seed=8, alpha=4.0)}
    restore_lora(other, read_lora(file))
    state = lora_state_dict(other["unet"])
    assert all(torch.equal(value, state[key]) for key, value in lora_state_dict(unet).items())


def one_number(key: str, value: Tensor) -> Tensor:
    return value + 1e-4 if key.endswith(("_b", "w1", "R.weight")) else value


def other_alpha(key: str, value: Tensor) -> Tensor:
    return value * 2 if key.endswith("alpha") else value


def transposed(key: str, value: Tensor) -> Tensor:
    return value.T.reshape(value.shape).contiguous() if value.ndim == 2 else value


FAULTS = {"one number": one_number, "alpha": other_alpha, "transposed": transposed}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_native_file_is_found(name: str, fault: str, tmp_path: Path) -> None:
    parts = both(name)
    folder = exported(parts, tmp_path / "lora")
    tensors = load_file(folder / "face.safetensors")
    changed = {key: FAULTS[fault](key, value) for key, value in tensors.items()}
    if all(torch.equal(changed[key], tensors[key]) for key in tensors):
        assert (name, fault) == ("oft", "alpha")  # it has none
        return
    save_file(changed, folder / "face.safetensors", METADATA)
    with pytest.raises(ExportError, match="adapter entries are not the same"):
        prove_export(folder, partial(tiny_pipeline, tmp_path / "tokenizer"), parts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["lora", *TYPES])
def test_files_of_16_bits_hold_the_rounded_weights(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    parts = both(name) if name != "lora" else {
        "unet": with_lora(tiny_unet(), "unet", ATTENTION),
        "text_encoder": with_lora(tiny_text_encoder(), "text_encoder", ATTENTION, r=3, alpha=1.25),
    }  # fmt: skip
    folder = exported(parts, tmp_path / "lora", dtype)
    for file in ("face.safetensors", "unet/adapter_model.safetensors"):
        tensors = load_file(folder / file)
        assert {t.dtype for key, t in tensors.items() if not key.endswith("alpha")} == {dtype}
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    assert max(prove_export(folder, fresh, parts, dtype).values()) > 0
    with pytest.raises(ExportError, match="are not the same"):
        prove_export(folder, fresh, parts)  # they are not the trained ones


def test_a_wrong_fold_of_alpha_is_found_by_the_update(tmp_path: Path, monkeypatch) -> None:
    """Folded twice the same wrong way, the tensors agree; the update does not."""
    right = folding._scaled

    def wrong(state, scales):
        return right(state, {layer: scale**2 for layer, scale in scales.items()})

    parts = {"unet": with_lora(tiny_unet(), "unet", ATTENTION)}  # alpha 6 of rank 4
    lora = adapters_of(parts, METADATA)
    monkeypatch.setattr(folding, "_scaled", wrong)
    found = same_adapters.different_updates(lora, folding.folded(lora), 1e-5)
    assert len(found) == len(lora.layers("unet"))
    with pytest.raises(ExportError, match="the update of .* layers is another one"):
        write_lora(tmp_path / "a.safetensors", lora, "kohya")
    assert not (tmp_path / "a.safetensors").exists()


def test_applied_beside_the_base_it_is_taken_out_again(tmp_path: Path) -> None:
    folder = exported(both("loha"), tmp_path / "lora")
    base = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    before = drawn(base)
    apply_lora(base, read_lora(folder))
    assert not torch.equal(drawn(base), before)
    remove_lora(*base.values())
    assert torch.equal(drawn(base), before)


@pytest.mark.parametrize("family", ["z_image", "flux2_klein"])
@pytest.mark.parametrize("name", TYPES)
def test_on_transformers_of_flow_matching(
    name: str, family: str, random_bases: dict[str, Path], tmp_path: Path
) -> None:
    source = ModelSource(str(random_bases[family]), family)
    trained, description = load_family(source, 0), description_of(family)
    part = description.denoiser
    targets = description.presets["attention"]
    spec = LoraSpec(2, 3.0, 0.0, targets, type=name, decompose_factor=2, oft_block_size=4)
    randomise(add_lora(trained.parts[part], spec, seed=1))
    export_lora(
        tmp_path / "lora",
        parts={part: trained.parts[part]},
        names=description.trainable,
        metadata={"ss_base_model_version": description.base_names(0, "flow")[0]},
        name="face",
    )

    def fresh() -> DiffusionPipeline:
        return load_family(source, 0).pipeline()

    found = prove_export(tmp_path / "lora", fresh, {part: trained.parts[part]})
    assert set(found) == {f"kohya/{part}", f"peft/{part}"}
    pipeline = fresh()
    pipeline.load_lora_weights(str(tmp_path / "lora"))  # the plain LoRA
    base, plain, expected = (
        outputs_of({part: each})[part]
        for each in (fresh().transformer, pipeline.transformer, trained.parts[part])
    )
    assert (plain - expected).norm() < LOST[name] * (base - expected).norm()
