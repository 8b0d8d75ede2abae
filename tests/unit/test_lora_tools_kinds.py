"""``sdlora lora`` on files of others: LoHa, IA3, norms, unknown keys; and faults of a writer."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.adapters import file_writing
from sdlora.adapters.formats import read_lora
from sdlora.commands.lora.arguments import main

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FLUX = "lora_unet_double_blocks_0_img_mod_lin"
STEM = f"lora_unet_{LAYER.replace('.', '_')}"


def call(*arguments: object) -> None:
    main([str(each) for each in arguments])


@pytest.fixture
def message_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.fixture(scope="module")
def weight(random_base: Path) -> Tensor:
    return load_file(random_base / "unet" / "diffusion_pytorch_model.safetensors")[
        f"{LAYER}.weight"
    ]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path: Path, **roles: Tensor) -> Path:
    names = {"A": "lora_down.weight", "B": "lora_up.weight"}
    save_file({f"{STEM}.{names.get(role, role)}": value for role, value in roles.items()}, path)
    return path


@pytest.fixture
def plain(tmp_path: Path, weight: Tensor) -> Path:
    side = weight.shape[0]
    return saved(tmp_path / "plain.safetensors", A=draw(4, side), B=draw(side, 4, seed=1),
                 alpha=torch.tensor(6.0))  # fmt: skip


@pytest.fixture
def loha(tmp_path: Path, weight: Tensor) -> Path:
    side = weight.shape[0]
    halves = {f"hada_w{n}_{m}": draw(*((side, 2) if m == "a" else (2, side)), seed=n)
              for n in (1, 2) for m in "ab"}  # fmt: skip
    return saved(tmp_path / "loha.safetensors", **halves, alpha=torch.tensor(1.0))


@pytest.fixture
def ia3(tmp_path: Path, weight: Tensor) -> Path:
    factor = draw(weight.shape[0])
    return saved(tmp_path / "ia3.safetensors", weight=factor, on_input=torch.tensor(0))


def product(path: Path) -> Tensor:
    layer = read_lora(path).layers("unet")[LAYER]
    return layer["alpha"].float() / layer["A"].shape[0] * (layer["B"] @ layer["A"])


def test_a_loha_becomes_a_plain_lora(
    loha: Path, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    call("convert", loha, out, "--to", "comfyui", "--base", random_base)
    shown = " ".join(capsys.readouterr().out.split())
    assert "loha.safetensors: 1 layers of LoHa became plain LoRA exactly" in shown
    halves = load_file(loha)
    one, two = (halves[f"{STEM}.hada_w{n}_a"] @ halves[f"{STEM}.hada_w{n}_b"] for n in (1, 2))
    torch.testing.assert_close(product(out), 0.5 * one * two, rtol=1e-5, atol=1e-6)
    assert load_file(out)[f"{STEM}.lora_down.weight"].shape[0] == 4  # 2²
    with safe_open(out, "pt") as file:
        assert file.metadata()["ss_network_module"] == "networks.lora"
        assert file.metadata()["sdlora.made_by"] == "plain form of loha.safetensors"


def test_what_needs_the_base_says_so_and_takes_it(
    ia3: Path, weight: Tensor, random_base: Path, tmp_path: Path, message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out.safetensors"
    told = message_of("convert", ia3, out, "--layout", "diffusers")
    assert f"unet.{LAYER}: IA3" in told
    assert "Give the base, --base MODEL" in told
    call("convert", ia3, out, "--layout", "diffusers", "--keep", "1", "--base", random_base)
    wanted = weight * load_file(ia3)[f"{STEM}.weight"][:, None]
    torch.testing.assert_close(product(out), wanted, rtol=1e-4, atol=1e-5)
    call("convert", ia3, out, "--layout", "kohya", "--r", "2", "--base", random_base,
         "--overwrite")  # fmt: skip
    s = torch.linalg.svdvals(wanted.double()).square()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{float((s[2:].sum() / s.sum()).sqrt()):.2%} of its update is missing" in shown


def test_a_loha_and_an_ia3_are_merged(
    loha: Path, ia3: Path, weight: Tensor, random_base: Path, tmp_path: Path,
    message_of: Callable[..., str],
) -> None:  # fmt: skip
    for path, change in (
        (loha, None),
        (ia3, weight * load_file(ia3)[f"{STEM}.weight"][:, None]),
    ):
        out = tmp_path / path.stem
        call(
            "merge", path, "--base", random_base, "--out", out, "--dtype", "fp32", "--scale", "-0.5"
        )
        unet = StableDiffusionPipeline.from_pretrained(out, local_files_only=True).unet
        if change is None:
            call("convert", loha, tmp_path / "c.safetensors", "--layout", "kohya")
            change = product(tmp_path / "c.safetensors")
        torch.testing.assert_close(
            unet.get_parameter(f"{LAYER}.weight"), weight - 0.5 * change, rtol=1e-5, atol=1e-6
        )
    told = message_of("merge", loha, ia3, "--base", random_base, "--out", tmp_path / "both")
    assert "merge it alone first" in told


def test_unknown_keys_stop_and_are_left_out_by_name(
    plain: Path, tmp_path: Path, message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, out = tmp_path / "more.safetensors", tmp_path / "out.safetensors"
    save_file(
        {**load_file(plain), "bundle_emb.sks.clip_l": draw(2, 16), "who.knows": draw(1)}, path
    )
    for command in (("convert", path, out), ("resize", path, "--r", "2", "--out", out)):
        how = ("--layout", "diffusers", "--overwrite")
        told = message_of(*command, *how)
        assert "bundle_emb.sks.clip_l: the embedding of the word sks" in told
        assert "To use the rest of the file without them, give --skip-unknown" in told
        call(*command, *how, "--skip-unknown")
        shown = " ".join(capsys.readouterr().out.split())
        assert "left out of more.safetensors: who.knows" in shown
        assert list(read_lora(out).layers("unet")) == [LAYER]


def test_a_norm_is_left_out_by_name_only(
    plain: Path, tmp_path: Path, message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    norm, path, out = (
        "lora_unet_conv_norm_out",
        tmp_path / "n.safetensors",
        tmp_path / "o.safetensors",
    )
    changes = {f"{norm}.w_norm": draw(32), f"{norm}.b_norm": draw(32)}
    save_file({**load_file(plain), **changes}, path)
    told = message_of("convert", path, out, "--layout", "kohya")
    assert "1 changes that no plain LoRA holds" in told
    assert "unet.conv_norm_out: a norm" in told
    call("convert", path, out, "--layout", "kohya", "--skip-unknown")
    assert "left out of n.safetensors: unet.conv_norm_out: a norm" in capsys.readouterr().out
    torch.testing.assert_close(product(out), product(plain), rtol=1e-5, atol=1e-7)
    save_file(changes, path)
    told = message_of("convert", path, out, "--layout", "kohya", "--skip-unknown", "--overwrite")
    assert "no layer that a plain LoRA could hold" in told


def test_weights_below_zero(plain: Path, loha: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    call("add", plain, loha, "--weights", "-0.5,1", "--out", out)
    call("convert", loha, other, "--layout", "kohya")
    wanted = product(other) - 0.5 * product(plain)
    torch.testing.assert_close(product(out), wanted, rtol=1e-4, atol=1e-6)


def transposed(tensors: dict[str, Tensor]) -> None:
    key = f"{STEM}.lora_up.weight"
    tensors[key] = tensors[key].flatten().reshape(tensors[key].shape[::-1])


def halved_alpha(tensors: dict[str, Tensor]) -> None:
    tensors[f"{STEM}.alpha"] = tensors[f"{STEM}.alpha"] / 2


def renamed(tensors: dict[str, Tensor], to: str) -> None:
    for key in list(tensors):
        tensors[key.replace(STEM, to)] = tensors.pop(key)


MUTANTS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "another scale": halved_alpha,
    "a transposed matrix": transposed,
    "a renamed layer": lambda tensors: renamed(tensors, STEM.replace("attn1", "attn2")),
    "another family's names": lambda tensors: renamed(
        tensors, "lora_unet_double_blocks_0_img_mod_lin"
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_writer_that_does_it_wrong_leaves_no_file(
    mutant: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    message_of: Callable[..., str],
) -> None:  # fmt: skip
    write = file_writing.write_weights

    def careless(path: Path, tensors: dict[str, Tensor], *rest: Any) -> None:
        changed = dict(tensors)
        MUTANTS[mutant](changed)
        write(path, changed, *rest)

    monkeypatch.setattr(file_writing, "write_weights", careless)
    told = message_of("convert", plain, tmp_path / "out.safetensors", "--layout", "kohya")
    assert re.search(r"are not the same|rank 4 in A|a LoRA of FLUX.1", told), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.safetensors"]


def test_a_transposed_dora_scale_is_found(
    tmp_path: Path, weight: Tensor, monkeypatch: pytest.MonkeyPatch, message_of: Callable[..., str]
) -> None:
    side = weight.shape[0]
    path = saved(tmp_path / "d.safetensors", A=draw(4, side), B=draw(side, 4, seed=1),
                 dora_scale=weight.norm(dim=1, keepdim=True))  # fmt: skip
    write = file_writing.write_weights

    def careless(out: Path, tensors: dict[str, Tensor], *rest: Any) -> None:
        key = f"{STEM}.dora_scale"
        write(out, {**tensors, key: tensors[key].mT.contiguous()}, *rest)

    monkeypatch.setattr(file_writing, "write_weights", careless)
    told = message_of("convert", path, tmp_path / "out.safetensors", "--layout", "kohya")
    assert "are not the same" in told


def test_a_kernel_written_flat_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message_of: Callable[..., str]
) -> None:
    """The same numbers in another shape, which programs refuse or misread."""
    path, stem = tmp_path / "c.safetensors", "lora_unet_mid_block_resnets_0_conv1"
    pair = {"down": draw(4, 16, 3, 3), "up": draw(16, 4, 1, 1)}
    save_file({f"{stem}.lora_{side}.weight": value for side, value in pair.items()}, path)
    write = file_writing.write_weights

    def careless(out: Path, tensors: dict[str, Tensor], *rest: Any) -> None:
        write(out, {key: value.reshape(value.shape[:1] + (-1,)) if value.ndim > 2 else value
                    for key, value in tensors.items()}, *rest)  # fmt: skip

    monkeypatch.setattr(file_writing, "write_weights", careless)
    told = message_of("convert", path, tmp_path / "out.safetensors", "--layout", "diffusers")
    assert "are not the same" in told


def test_small_faults_of_files(plain: Path, tmp_path: Path, message_of: Callable[..., str]) -> None:
    out, path = tmp_path / "out.safetensors", tmp_path / "x.safetensors"
    tensors = load_file(plain)
    save_file(tensors, path, {"lora_adapter_metadata": "{not json"})
    call("convert", path, out, "--layout", "diffusers")  # a kohya file says all by its tensors
    unlike = {**tensors, f"{STEM}.lora_up.weight": tensors[f"{STEM}.lora_up.weight"][:, :2].clone()}
    save_file(unlike, path)
    told = message_of("convert", path, out, "--layout", "kohya", "--overwrite")
    assert "rank 4 in A and 2 in B; the file is damaged" in told
    save_file(tensors, path, {"thumbnail": "x" * 2**24})
    told = message_of("convert", path, out, "--layout", "kohya", "--overwrite")
    assert f"{out}: 167" in told  # the file asked for, not a temporary one
    assert "leave out the longest" in told
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}), "utf-8")
    (folder / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    told = message_of("convert", folder, out, "--layout", "kohya", "--overwrite")
    assert "adapter_model.bin: a pickle" in told
    assert "safe_serialization=True" in told


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    call(*arguments)
    return " ".join(capsys.readouterr().out.split())


def test_compare(
    plain: Path, loha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, half, minus = (tmp_path / f"{name}.safetensors" for name in ("o", "h", "m"))
    call("convert", plain, other, "--layout", "diffusers")
    call("add", plain, "--weights", "0.5", "--out", half)
    call("add", plain, "--weights", "-1", "--out", minus)
    assert "the same update: cosine 1.000000" in shown(capsys, "compare", plain, other)
    assert "same update at 0.5 times the strength" in shown(capsys, "compare", plain, half)
    assert "opposite update at 1 times the strength" in shown(capsys, "compare", plain, minus)
    told = shown(capsys, "compare", plain, loha)
    converted = tmp_path / "c.safetensors"
    call("convert", loha, converted, "--layout", "kohya")
    one, two = product(plain).double(), product(converted).double()
    cosine = float((one * two).sum() / one.norm() / two.norm())
    assert f"different updates: cosine {cosine:.6f}" in told
    assert f"norms {float(one.norm()):.4g} and {float(two.norm()):.4g}" in told
    assert (
        f"relative difference {float((one - two).norm() / max(one.norm(), two.norm())):.2g}" in told
    )
    assert "1 layers, 0 only in the first, 0 only in the second" in told


def test_blocks_of_a_sum(plain: Path, tmp_path: Path, message_of: Callable[..., str]) -> None:
    path, out = tmp_path / "two.safetensors", tmp_path / "out.safetensors"
    other = STEM.replace("mid_block", "up_blocks_1")
    tensors = load_file(plain)
    save_file({**tensors, **{k.replace(STEM, other): v.clone() for k, v in tensors.items()}}, path)
    call("add", path, "--blocks", "mid_block=0.25,up_blocks.1.*=0", "--out", out)
    torch.testing.assert_close(product(out), 0.25 * product(plain), rtol=1e-5, atol=1e-6)
    up = read_lora(out).layers("unet")[LAYER.replace("mid_block", "up_blocks.1")]
    assert not up["B"].any()
    with safe_open(out, "pt") as file:
        assert "--blocks mid_block=0.25" in file.metadata()["sdlora.made_by"]
    told = message_of("add", path, "--blocks", "middle=1", "--out", out, "--overwrite")
    assert "--blocks middle: matches no layer" in told


def test_fix(
    plain: Path, tmp_path: Path, message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    tensors = load_file(plain)
    bad = STEM.replace("attn1", "attn2")
    broken = {k.replace(STEM, bad): v.clone() for k, v in tensors.items()}
    broken[f"{bad}.lora_up.weight"][0, 0] = torch.nan
    zero = {**tensors, f"{STEM}.alpha": torch.tensor(0.0)}
    save_file({**zero, **broken, "who.knows": draw(1)}, path)
    assert "nothing to repair" in message_of("fix", plain, out)
    told = shown(capsys, "fix", path, out)
    assert f"{bad}: left out, NaN or infinity in 1 tensors" in told
    assert f"{STEM}: alpha is the rank, was 0" in told
    assert "who.knows: left out" in told
    assert "3 repairs" in told
    torch.testing.assert_close(product(out), product(plain) * 4 / 6, rtol=1e-5, atol=1e-7)
    config = {"unet.r": 4, "unet.lora_alpha": -1.0}
    bare = {key: value for key, value in tensors.items() if not key.endswith("alpha")}
    save_file(bare, path, {"lora_adapter_metadata": json.dumps(config)})
    told = shown(capsys, "fix", path, out, "--overwrite")
    assert "unet: alpha is the rank, was -1 in the header" in told
    told = shown(capsys, "fix", plain, out, "--alpha", "3", "--overwrite")
    assert f"{STEM}: alpha 3, was 6" in told
    torch.testing.assert_close(product(out), product(plain) / 2, rtol=1e-5, atol=1e-7)


def test_alpha_0_is_named_with_its_repair(
    plain: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    path, out = tmp_path / "zero.safetensors", tmp_path / "out.safetensors"
    save_file({**load_file(plain), f"{STEM}.alpha": torch.tensor(0.0)}, path)
    told = message_of("convert", path, out, "--layout", "kohya")
    assert "rank 4, alpha 0.0" in told
    command = re.search(r"sdlora lora (fix .*)$", told, re.MULTILINE)
    assert command is not None
    call(*command[1].replace("FIXED.safetensors", str(out)).split())
    assert read_lora(out).specs["unet"].alpha == 4


def test_another_family_than_the_base_is_refused_by_name(
    plain: Path, random_base: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    path, out = tmp_path / "xl.safetensors", tmp_path / "out.safetensors"
    second = STEM.replace("transformer_blocks_0", "transformer_blocks_1")
    save_file({k.replace(STEM, second): v for k, v in load_file(plain).items()}, path)
    for command in (
        ("merge", path, "--out", out),
        ("convert", path, out, "--layout", "diffusers"),
        ("add", plain, path, "--out", out),
    ):
        told = message_of(*command, "--base", random_base)
        assert f"{path}: a LoRA of Stable Diffusion XL or Kolors; the base is Stable" in told
    assert not out.exists()


def test_convert_cuts_no_plain_lora(
    plain: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    out = tmp_path / "out.safetensors"
    told = message_of("convert", plain, out, "--layout", "kohya", "--r", "2")
    assert "use sdlora lora resize" in told
