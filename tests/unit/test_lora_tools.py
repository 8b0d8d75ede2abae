"""``sdlora lora``, as a user calls it; what it writes is read by diffusers."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.adapters.file_writing import write_diffusers, write_kohya
from sdlora.adapters.formats import read_lora
from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.commands.lora.arguments import main
from sdlora.export import lora_files
from sdlora.export.merging import write_merged
from sdlora.export.proof import outputs
from sdlora.models.families import description_of
from sdlora.models.loading import load_family
from sdlora.models.sd import SD
from sdlora.models.sdxl import SDXL
from sdlora.models.source import ModelSource
from tests.unit.adapters.tiny_models import EVERYTHING, randomise

HEADER = {"ss_base_model_version": "sd_v1", "ss_steps": "7", "sdlora.config": "{}"}


def adapted(
    base: Path,
    seed: int = 9,
    family: str = "sd",
    only: str = "",
    mixed: bool = False,
    **spec: object,
) -> dict[str, nn.Module]:
    """The base's parts with a LoRA on each or on one; alpha is not the rank, ranks may be mixed."""
    parts = load_family(ModelSource(str(base), family), 0).parts
    parts = {part: module for part, module in parts.items() if only in ("", part)}
    for part, module in parts.items():
        targets = EVERYTHING["unet" if part == "unet" else "text_encoder"]
        if mixed:
            spec["rank_pattern"] = {"conv1" if part == "unet" else "fc1": 2}
        values: dict = {"r": 4, "alpha": 6.0, "dropout": 0.0, "targets": targets, **spec}
        randomise(add_lora(module, LoraSpec(**values), seed=1), seed)
    return parts


@pytest.fixture(scope="module")
def trained(random_base: Path) -> dict[str, nn.Module]:
    return adapted(random_base)


@pytest.fixture
def file(tmp_path: Path, trained: dict[str, nn.Module]) -> Path:
    return write_kohya(
        tmp_path / "a.safetensors", parts=trained, names=SD.trainable, metadata=HEADER
    )


@pytest.fixture
def message_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(each) for each in arguments])
        assert stop.value.code == 2
        return capsys.readouterr().err

    return call


def call(*arguments: object) -> None:
    main([str(each) for each in arguments])


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return opened.metadata()


def weights(pipeline: object) -> dict[str, Tensor]:
    """Of all parts that have some."""
    names = ("vae", "text_encoder", "text_encoder_2", "unet")
    parts = {name: getattr(pipeline, name, None) for name in names}
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        if part is not None
        for key, value in part.state_dict().items()
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_help_needs_no_library(repository: Path) -> None:
    code = "import sys; from sdlora.commands.lora.arguments import main\ntry: main(['--help'])\n"
    code += "finally: assert not {'torch', 'hydra', 'diffusers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"inspect" in done.stdout


def test_inspect_tells_what_was_put_in(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("inspect", file, "--json", "--weights")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["dtypes"], facts["is_finite"]) == ("kohya", ["float32"], True)
    assert facts["num_bytes"] == file.stat().st_size
    assert facts["base_model"] == "sd_v1"
    assert facts["metadata"]["ss_steps"] == "7"
    unet = facts["parts"]["unet"]
    tensors = load_file(file)
    stems = {key.partition(".")[0] for key in tensors if key.startswith("lora_unet")}
    assert sum(unet["kinds"].values()) == len(stems)
    # by hand: 1 block with attention down, 1 in the middle, 2 up, each q, k, v and out twice
    assert unet["kinds"]["self-attention"] == unet["kinds"]["cross-attention"] == 4 * 4
    assert unet["ranks"] == {"4": len(stems)}
    assert unet["alphas"] == {"4.0": len(stems)}  # the rank: alpha is in the weights
    norms = {
        stem: float(
            (tensors[f"{stem}.lora_up.weight"].flatten(1)
             @ tensors[f"{stem}.lora_down.weight"].flatten(1)).norm()
        )
        for stem in stems
    }  # fmt: skip
    assert unet["norm"] == pytest.approx(sum(n**2 for n in norms.values()) ** 0.5, rel=1e-5)
    strongest, norm = next(iter(unet["strongest"].items()))
    assert norm == pytest.approx(max(norms.values()), rel=1e-5)
    assert norms[f"lora_unet_{strongest.replace('.', '_')}"] == max(norms.values())
    call("inspect", file, "--weights")
    shown = capsys.readouterr().out
    assert "kohya, float32" in shown
    assert strongest in shown


def test_inspect_shows_a_file_that_no_other_command_takes(
    file: Path, capsys: pytest.CaptureFixture[str], message_of: Callable[..., str]
) -> None:
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("lora_up.weight") and "unet" in key)
    tensors[key][0, 0] = torch.nan
    save_file(tensors, file)
    call("inspect", file, "--weights")
    shown = capsys.readouterr().out
    assert "NO: NaN or infinity" in shown
    assert "not finite: 1 tensors" in shown
    call("inspect", file, "--json", "--weights")
    facts = json.loads(capsys.readouterr().out)
    assert facts["parts"]["unet"]["norm"] is None
    assert facts["parts"]["text_encoder"]["norm"] > 0
    out = file.parent / "b.safetensors"
    told = message_of("convert", file, out, "--layout", "diffusers")
    assert "NaN or infinity in 1 tensors" in told
    assert not out.exists()


def test_convert_there_and_back(file: Path, random_base: Path, tmp_path: Path) -> None:
    """Through all layouts, each read by its own loader on the base; the last is the first."""
    there, peft, back = tmp_path / "b.safetensors", tmp_path / "peft", tmp_path / "c.safetensors"
    call("convert", file, there, "--layout", "diffusers", "--base", random_base)
    call("convert", there, peft, "--layout", "peft", "--base", random_base)
    call("convert", peft, back, "--layout", "kohya", "--base", random_base)
    assert (peft / "text_encoder" / "adapter_config.json").is_file()
    assert same(load_file(file), load_file(back))
    kept = header(back)
    assert HEADER.items() <= kept.items()
    assert kept["sshs_model_hash"] == header(file)["sshs_model_hash"]
    assert kept["ss_output_name"] == "a"


def test_a_16_bit_file_stays_one(file: Path, tmp_path: Path) -> None:
    halves = {k: v.half() if "alpha" not in k else v for k, v in load_file(file).items()}
    save_file(halves, tmp_path / "half.safetensors")
    for layout in ("diffusers", "kohya"):
        out = tmp_path / f"{layout}.safetensors"
        call("convert", tmp_path / "half.safetensors", out, "--layout", layout)
    assert same(load_file(out), halves)
    assert out.stat().st_size < 0.7 * file.stat().st_size


@pytest.mark.slow
def test_convert_of_sdxl(random_xl: Path, tmp_path: Path) -> None:
    parts = adapted(random_xl, family="sdxl", use_rslora=True, mixed=True)
    first = write_diffusers(
        tmp_path / "a.safetensors", parts=parts, names=SDXL.trainable, metadata={}
    )
    kohya, peft, last = tmp_path / "k.safetensors", tmp_path / "peft", tmp_path / "d.safetensors"
    call("convert", first, kohya, "--layout", "kohya", "--base", random_xl)
    starts = {key.split("_")[1] for key in load_file(kohya)}
    assert starts == {"unet", "te1", "te2"}
    call("convert", kohya, peft, "--layout", "peft", "--base", random_xl)
    call("convert", peft, last, "--layout", "diffusers", "--base", random_xl)
    assert same(load_file(first), load_file(last))


@pytest.mark.slow
def test_one_text_encoder_of_sdxl_keeps_its_number(random_xl: Path, tmp_path: Path) -> None:
    parts = adapted(random_xl, family="sdxl")
    del parts["text_encoder_2"]
    first = write_diffusers(
        tmp_path / "a.safetensors", parts=parts, names=SDXL.trainable, metadata={}
    )
    call("convert", first, tmp_path / "k.safetensors", "--layout", "kohya")
    assert any(key.startswith("lora_te1_") for key in load_file(tmp_path / "k.safetensors"))


def test_a_file_that_reads_back_otherwise_is_not_left(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message_of: Callable[..., str]
) -> None:
    write = lora_files.write_diffusers_file

    def careless(path: Path, lora: lora_files.LoraFile, *rest: Any) -> Path:
        states = {part: {k: v * 1.001 for k, v in s.items()} for part, s in lora.states.items()}
        return write(path, lora_files.replace(lora, states=states), *rest)

    monkeypatch.setattr(lora_files, "write_diffusers_file", careless)
    out = tmp_path / "b.safetensors"
    assert "layers are not the same" in message_of("convert", file, out, "--layout", "diffusers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_resize_gives_the_rank(file: Path, random_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    call("resize", file, "--r", "2", "--out", out, "--base", random_base)
    found = read_lora(out)
    assert {spec.r for spec in found.specs.values()} == {2}
    assert {spec.alpha for spec in found.specs.values()} == {
        2.0
    }  # the rank: 6 / 4 is in the weights
    told = header(out)
    assert (told["ss_network_dim"], told["ss_output_name"], told["ss_steps"]) == ("2", "small", "7")
    assert told["sdlora.made_by"] == "resize a.safetensors --r 2"
    again = tmp_path / "shares.safetensors"
    call("resize", file, "--keep", "0.6", "--out", again, "--layout", "diffusers",
         "--base", random_base)  # fmt: skip
    assert len({t["A"].shape[0] for t in read_lora(again).layers("unet").values()}) > 1


def test_add_and_merge_agree(file: Path, random_base: Path, tmp_path: Path) -> None:
    """Two LoRAs added in one file, and merged one after the other, give the same model."""
    parts = adapted(random_base, seed=5, r=3, alpha=1.0, targets=("conv1",), only="unet")
    other = write_diffusers(
        tmp_path / "b.safetensors", parts=parts, names=SD.trainable, metadata={}
    )
    total, merged = tmp_path / "sum.safetensors", tmp_path / "merged"
    call("add", file, other, "--weights", "0.7,0.3", "--out", total, "--base", random_base)
    told = header(total)
    assert told["sdlora.made_by"] == "add 0.7 x a.safetensors + 0.3 x b.safetensors"
    assert not told.keys() & {"sdlora.config", "ss_steps", "ss_base_model_version"}  # not in both
    call("merge", file, other, "--scale", "0.7,0.3", "--base", random_base, "--out", merged,
         "--dtype", "fp32")  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(merged, local_files_only=True)
    beside = StableDiffusionPipeline.from_pretrained(random_base, local_files_only=True)
    beside.load_lora_weights(str(total.parent), weight_name=total.name)
    names = ("unet", "text_encoder")
    wanted = outputs({name: getattr(beside, name) for name in names})
    found = outputs({name: getattr(pipeline, name) for name in names})
    for name in names:  # float32 rounding of merged weights
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_merge_into_a_single_file(
    family: str, random_base: Path, random_xl: Path, tmp_path: Path
) -> None:
    base = random_xl if family == "sdxl" else random_base
    loader = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    lora = write_kohya(
        tmp_path / "a.safetensors",
        parts=adapted(base, family=family),
        names=description_of(family).trainable,
        metadata=HEADER,
    )
    file, folder = tmp_path / "merged.safetensors", tmp_path / "merged"
    for out in (file, folder):
        call("merge", lora, "--base", base, "--out", out)
    keys = load_file(file).keys()
    assert "model.diffusion_model.input_blocks.0.0.weight" in keys
    assert "first_stage_model.encoder.mid.attn_1.q.weight" in keys
    first = "conditioner.embedders.0" if family == "sdxl" else "cond_stage_model"
    assert f"{first}.transformer.text_model.embeddings.token_embedding.weight" in keys
    if family == "sdxl":
        prefix = "conditioner.embedders.1.model."
        assert f"{prefix}transformer.resblocks.1.attn.in_proj_weight" in keys
        assert f"{prefix}text_projection" in keys
    one = loader.from_single_file(file, config=str(base), local_files_only=True, dtype=torch.half)
    other = loader.from_pretrained(folder, local_files_only=True, dtype=torch.half)
    assert same(weights(one), weights(other))
    bare = loader.from_pretrained(base, local_files_only=True, dtype=torch.half)
    assert not same(weights(bare), weights(other))


def test_a_text_encoder_of_openclip_in_a_single_file(random_base: Path, tmp_path: Path) -> None:
    """Stable Diffusion 2's: other names, and query, key and value in one matrix."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, local_files_only=True)
    pipeline.text_encoder.config.hidden_act = "gelu"
    base, file = tmp_path / "sd2", tmp_path / "sd2.safetensors"
    pipeline.save_pretrained(base)
    write_merged(file, pipeline, torch.float32, base)  # which loads it back and compares
    keys = [key for key in load_file(file) if key.startswith("cond_stage_model.")]
    start = "cond_stage_model.model."
    assert f"{start}transformer.resblocks.0.attn.in_proj_bias" in keys
    assert all(key.startswith(start) for key in keys)


def test_extract_finds_the_lora_again(file: Path, random_base: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    call("merge", file, "--base", random_base, "--out", tuned, "--dtype", "fp32")
    whole = tmp_path / "whole.safetensors"
    call("extract", "--tuned", tuned, "--base", random_base, "--r", "4", "--out", whole)
    before, after = read_lora(file), read_lora(whole)
    for part in before.states:
        old, new = before.layers(part), after.layers(part)
        assert new.keys() == old.keys()
        for name, layer in old.items():
            wanted = layer["B"].flatten(1) @ layer["A"].flatten(1)
            found = new[name]["B"].flatten(1) @ new[name]["A"].flatten(1)
            # the difference of float32 weights of size 1: their rounding is 1e-7
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    told = header(whole)
    assert (told["ss_base_model_version"], told["ss_v2"]) == ("sd_v1", "False")


def test_extract_says_what_it_lost(
    file: Path, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = StableDiffusionPipeline.from_pretrained(random_base, local_files_only=True)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = tuned.unet.mid_block.resnets[0].conv1.weight
        weight += 0.1 * torch.randn(weight.shape, generator=draws)
        change = weight - _weight(random_base, "mid_block.resnets.0.conv1.weight")
        tuned.unet.conv_norm_out.weight += 1.0
    tuned.save_pretrained(tmp_path / "tuned")
    out = tmp_path / "a2.safetensors"
    call("extract", "--tuned", tmp_path / "tuned", "--base", random_base, "--r", "2", "--out", out,
         "--layout", "kohya")  # fmt: skip
    assert list(read_lora(out).layers("unet")) == ["mid_block.resnets.0.conv1"]
    s = torch.linalg.svdvals(change.flatten(1).double()).square()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{float((s[2:].sum() / s.sum()).sqrt()):.2%} of the difference is missing" in shown
    assert "1 weights that a LoRA cannot hold differ" in shown
    assert "conv_norm_out.weight" in shown


def _weight(base: Path, key: str) -> Tensor:
    return load_file(base / "unet" / "diffusion_pytorch_model.safetensors")[key]


def test_what_cannot_be_done_is_one_message(
    file: Path, random_base: Path, random_xl: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    out = tmp_path / "x.safetensors"
    resize = ("resize", file, "--out")
    for arguments, told in (
        ((*resize, file, "--r", "2"), f"out={file}: exists already; choose another, or use --"),
        ((*resize, tmp_path / "x", "--r", "2"), "a kohya file ends with ."),
        ((*resize, out, "--r", "0"), "--r: 0: must be a whole number >= 1"),
        ((*resize, out, "--keep", "2"), "--keep: 2: must be in (0, 1], such as 0.9"),
        ((*resize, out), "one of the arguments --r --keep is required"),
        (("add", file, file, "--weights", "1", "--out", out), "--weights=1: 1 numbers for 2 files"),
        (("merge", file, "--base", tmp_path, "--out", out), "no model_index.json that can be read"),
        (("merge", file, "--base", random_xl, "--out", out),
         "a LoRA of Stable Diffusion 1; the base is Stable Diffusion XL"),
        (("inspect", tmp_path / "none.safetensors"), "no such file"),
        (("extract", "--tuned", random_base, "--base", random_base, "--r", "2", "--out", out),
         "the two models do not differ"),
    ):  # fmt: skip
        assert told in message_of(*arguments), arguments
        assert not out.exists()
