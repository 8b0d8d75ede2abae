"""Exports, read back by the programs that they are for."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file

from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.spec import LoraError
from sdlora.export import float32_layers, proof
from sdlora.export.layouts import export_lora, export_pipeline
from sdlora.export.proof import ExportError, prove_export
from sdlora.models.sd import SD
from sdlora.runtime.files import whole_folder
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    EVERYTHING,
    outputs,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)

METADATA = {"ss_base_model_version": "sd_v1", "modelspec.author": "somebody"}
FILE = "pytorch_lora_weights.safetensors"

ROUNDED = 1e-5
"""Largest difference of outputs where alpha is in the weights: float32 rounds in another order."""


@pytest.fixture
def fresh(tmp_path: Path):
    return partial(tiny_pipeline, tmp_path / "tokenizer")


def tuned(targets: dict[str, tuple[str, ...]], **spec: object):
    unet = with_lora(tiny_unet(), "unet", targets, **spec)
    return unet, with_lora(tiny_text_encoder(), "text_encoder", targets, r=3, alpha=1.25)


def both(unet, text_encoder):
    return {"unet": unet, "text_encoder": text_encoder}


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING], ids=["attention", "everything"])
def test_all_layouts_give_the_model_back(targets, tmp_path: Path, fresh) -> None:
    unet, text_encoder = tuned(targets)
    folder = tmp_path / "lora"
    files = export_lora(
        folder,
        parts=both(unet, text_encoder),
        names=SD.trainable,
        metadata=METADATA,
        name="my face",
    )
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert {str(path.relative_to(folder)) for path in files} >= {
        FILE, "my face.safetensors", "unet/adapter_config.json",
        "text_encoder/adapter_model.safetensors",
    }  # fmt: skip
    differences = prove_export(folder, fresh, both(unet, text_encoder))
    assert set(differences) == {
        f"{layout}/{part}"
        for layout in ("diffusers", "kohya", "peft")
        for part in ("unet", "text_encoder")
    }
    assert max(differences.values()) <= ROUNDED


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_each_program_by_itself(tmp_path: Path, fresh) -> None:
    unet, text_encoder = tuned(EVERYTHING)
    expected = outputs(unet, text_encoder)
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata=METADATA, name="face"
    )
    base = fresh()
    assert not torch.allclose(outputs(base.unet, base.text_encoder), expected, atol=1e-2)
    for name in (FILE, "face.safetensors"):
        pipeline = fresh()
        pipeline.load_lora_weights(str(folder), weight_name=name)
        drawn = outputs(pipeline.unet, pipeline.text_encoder)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=ROUNDED)
    pipeline = fresh()
    PeftModel.from_pretrained(pipeline.unet, str(folder / "unet"))
    PeftModel.from_pretrained(pipeline.text_encoder, str(folder / "text_encoder"))
    assert torch.equal(outputs(pipeline.unet, pipeline.text_encoder), expected)


@pytest.mark.parametrize("targets", [("q_proj",), ("k_proj", "fc1"), ("out_proj",)])
def test_any_target_of_a_text_encoder(targets: tuple[str, ...], tmp_path: Path, fresh) -> None:
    text_encoder = with_lora(tiny_text_encoder(), "text_encoder", {"text_encoder": targets})
    folder, parts = tmp_path / "lora", both(tiny_unet(), text_encoder)
    export_lora(folder, parts=parts, names=SD.trainable, metadata={}, name="face")
    assert max(prove_export(folder, fresh, parts).values()) <= ROUNDED


def test_time_embeddings_of_the_resnets(tmp_path: Path, fresh) -> None:
    """Their kohya names by its rule, and each program reads them."""
    unet = with_lora(tiny_unet(), "unet", {"unet": ("time_emb_proj",)})
    folder = tmp_path / "lora"
    parts = both(unet, tiny_text_encoder())
    export_lora(folder, parts=parts, names=SD.trainable, metadata={}, name="face")
    blocks = ["down_blocks_0", "down_blocks_1", "up_blocks_0", "up_blocks_1"]
    resnets = [f"{b}_resnets_{n}" for b in blocks for n in range(1 if "down" in b else 2)]
    resnets += ["mid_block_resnets_0", "mid_block_resnets_1"]
    matrices = ("alpha", "lora_down.weight", "lora_up.weight")
    expected = {f"lora_unet_{r}_time_emb_proj.{m}" for r in resnets for m in matrices}
    assert load_file(folder / "face.safetensors").keys() == expected
    assert max(prove_export(folder, fresh, parts).values()) <= ROUNDED


@pytest.mark.parametrize(
    "spec",
    [
        {"use_rslora": True},
        {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_k": 3.0}},
        {"rank_pattern": {"down_blocks.*.attn1": 2}, "use_rslora": True},
        {"rank_pattern": {"mid_block": 7}, "init": "pissa"},
        {"alpha_pattern": {"attn2": 2.0}, "init": "olora", "use_rslora": True},
    ],
    ids=["rslora", "mixed ranks", "rslora by pattern", "pissa", "olora"],
)
def test_unusual_specs(spec: dict, tmp_path: Path, fresh) -> None:
    unet, text_encoder = tuned(ATTENTION, **spec)
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    assert max(prove_export(folder, fresh, both(unet, text_encoder)).values()) < 1e-5


@pytest.mark.parametrize("pattern", [{}, {"rank_pattern": {"conv1": 2}}], ids=["", "mixed ranks"])
def test_dora_on_the_unet(pattern: dict, tmp_path: Path, fresh) -> None:
    unet, text_encoder = (
        with_lora(tiny_unet(), "unet", EVERYTHING, use_dora=True, **pattern),
        tiny_text_encoder(),
    )
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    assert max(prove_export(folder, fresh, both(unet, tiny_text_encoder())).values()) < 1e-5
    dora = with_lora(tiny_text_encoder(), "text_encoder", ATTENTION, use_dora=True)
    with pytest.raises(LoraError, match="train it without DoRA"):
        export_lora(folder, parts=both(unet, dora), names=SD.trainable, metadata={}, name="face")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_one_part_alone(part: str, tmp_path: Path, fresh) -> None:
    modules = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    with_lora(modules[part], part, ATTENTION)
    folder = tmp_path / "lora"
    files = export_lora(folder, parts=modules, names=SD.trainable, metadata={}, name="face")
    assert {path.parent.name for path in files} == {"lora", part}
    assert max(prove_export(folder, fresh, modules).values()) <= ROUNDED


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_over_a_16_bit_base(dtype: torch.dtype, tmp_path: Path, fresh) -> None:
    unet = with_lora(tiny_unet().to(dtype), "unet", ATTENTION).train()
    text_encoder = tiny_text_encoder().to(dtype)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    assert all(v.dtype == torch.float32 for v in load_file(folder / FILE).values())
    differences = prove_export(folder, partial(fresh, dtype), both(unet, text_encoder))
    assert max(differences.values()) <= ROUNDED
    assert unet.training
    after = unet.state_dict()  # the proof looked at it in float32 and put it back
    assert all(v.dtype == after[k].dtype and torch.equal(v, after[k]) for k, v in before.items())


def test_one_copy_of_the_base_serves_all_layouts_layer_by_layer(
    tmp_path: Path, fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own dtype: no more than one layer has float32 weights, and the result is the same."""
    unet = with_lora(tiny_unet().to(torch.bfloat16), "unet", ATTENTION)
    folder, parts = tmp_path / "lora", both(unet, tiny_text_encoder())
    export_lora(folder, parts=parts, names=SD.trainable, metadata={}, name="face")
    loaded, wide, widen = [], [], float32_layers._widen

    def counted():
        loaded.append(fresh(torch.bfloat16))
        return loaded[-1]

    def watched(kept, module, args, kwargs):
        found = widen(kept, module, args, kwargs)
        frozen = {id(tensor) for tensor, _ in kept}
        for model in (unet, *(pipeline.unet for pipeline in loaded)):
            others = [p for n, p in model.named_parameters() if "lora_" not in n]
            wide.append(sum(p.dtype == torch.float32 and id(p) not in frozen for p in others))
        return found

    monkeypatch.setattr(float32_layers, "_widen", watched)
    assert max(prove_export(folder, counted, parts).values()) <= ROUNDED
    assert len(loaded) == 1
    assert max(wide) == 0
    assert all(p.dtype == torch.bfloat16 for p in loaded[0].unet.parameters())
    exact = {name: value.float() for name, value in unet.state_dict().items()}
    in_float32 = with_lora(tiny_unet(), "unet", ATTENTION)
    in_float32.load_state_dict(exact)
    (whole,) = proof.outputs({"unet": in_float32}).values()
    assert torch.equal(proof.outputs({"unet": unet})["unet"], whole)


def test_a_file_that_lost_something_is_found(tmp_path: Path, fresh) -> None:
    unet, text_encoder = tuned(ATTENTION)
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    whole = load_file(folder / FILE)

    lost = {key: value for key, value in whole.items() if "mid_block" not in key}
    save_file(lost, folder / FILE)
    with pytest.raises(ExportError, match="diffusers/unet.*adapter entries are not the same"):
        prove_export(folder, fresh, both(unet, text_encoder))
    save_file(whole, folder / FILE)  # without the header: alpha, taken for the rank, is in there
    assert max(prove_export(folder, fresh, both(unet, text_encoder)).values()) <= ROUNDED
    stronger = {k: v * 1.5 if k.endswith("lora_B.weight") else v for k, v in whole.items()}
    save_file(stronger, folder / FILE)
    with pytest.raises(ExportError, match="diffusers/unet.*adapter entries are not the same"):
        prove_export(folder, fresh, both(unet, text_encoder))

    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )

    def other_base() -> StableDiffusionPipeline:
        pipeline = fresh()
        pipeline.unet.conv_in.weight.data.mul_(1.5)
        return pipeline

    with pytest.raises(ExportError, match="diffusers/unet: loaded back, its output differs by"):
        prove_export(folder, other_base, both(unet, text_encoder))


def test_nan_is_not_exported_and_the_old_export_stays(tmp_path: Path) -> None:
    unet, text_encoder = tuned(ATTENTION)
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    next(iter(lora_parameters(text_encoder).values())).data[0, 0] = torch.nan
    with pytest.raises(LoraError, match="NaN or infinity in 1 tensors"):
        export_lora(
            folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
        )
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_without_an_adapter_there_is_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="no adapter on any of unet"):
        export_lora(
            tmp_path / "lora",
            parts={"unet": tiny_unet()},
            names=SD.trainable,
            metadata={},
            name="face",
        )
    assert not list(tmp_path.iterdir())


def test_no_path_of_this_machine_is_in_the_files(tmp_path: Path) -> None:
    unet, text_encoder = tuned(ATTENTION)
    text_encoder.name_or_path = str(tmp_path)
    folder = tmp_path / "lora"
    export_lora(
        folder, parts=both(unet, text_encoder), names=SD.trainable, metadata={}, name="face"
    )
    for path in folder.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()
    config = json.loads((folder / "unet" / "adapter_config.json").read_text("utf-8"))
    assert config["inference_mode"]


def test_a_whole_model(tmp_path: Path, fresh) -> None:
    pipeline = fresh()
    with torch.no_grad():
        pipeline.unet.conv_in.weight.mul_(1.5)
    folder = export_pipeline(tmp_path / "model", pipeline)
    again = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    expected = outputs(pipeline.unet, pipeline.text_encoder)
    assert torch.equal(outputs(again.unet, again.text_encoder), expected)
    assert not list(folder.rglob("*.bin"))
    twice = export_pipeline(tmp_path / "again", again)
    for path in twice.rglob("*.json"):
        assert str(tmp_path) not in path.read_text("utf-8"), path
    if os.name != "nt":
        plain = tmp_path / "plain"
        plain.touch()  # as the umask has it
        modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
        assert modes == {plain.stat().st_mode}
    with torch.no_grad():
        pipeline.unet.conv_in.weight[0] = torch.nan
    with pytest.raises(LoraError, match="NaN or infinity"):
        export_pipeline(folder, pipeline)
    again = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert torch.equal(outputs(again.unet, again.text_encoder), expected)
    adapted = fresh()
    with_lora(adapted.unet, "unet", ATTENTION)
    with pytest.raises(LoraError, match="export_lora"):
        export_pipeline(folder, adapted)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "lora"

    def write(text: str) -> None:
        with whole_folder(folder) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a").write_text(text, encoding="utf-8")

    def read() -> str:
        return (folder / "sub" / "a").read_text("utf-8")

    write("one")
    write("two")
    assert read() == "two"
    with pytest.raises(FileNotFoundError), whole_folder(folder) as temporary:
        temporary.joinpath("half").touch() or temporary.joinpath("no", "folder").touch()
    assert read() == "two"
    # a kill between the renames, and one while writing
    folder.rename(tmp_path / ".replaced-lora")
    (tmp_path / ".exporting-lora-abc" / "content").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), whole_folder(folder):
        raise KeyboardInterrupt  # what was interrupted is put right before anything is written
    assert read() == "two"
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == tmp_path.joinpath("lora", "sub").stat().st_mode & 0o777
