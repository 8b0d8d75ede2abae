"""LoRA files of every layout, written here by each layout's own naming rule, not by the code."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.adapters.file_writing import write_diffusers, write_kohya, write_peft
from sdlora.adapters.folding import folded_state
from sdlora.adapters.formats import apply_lora, read_lora, restore_lora
from sdlora.adapters.lora import adapted_layers, lora_state_dict
from sdlora.adapters.spec import LoraError
from sdlora.adapters.weights import write_weights
from sdlora.models.sd import SD
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    EVERYTHING,
    outputs,
    randomise,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)

LAYOUTS = ("diffusers", "kohya", "peft")


@pytest.fixture(scope="module")
def tuned():
    """UNet and text encoder with an adapter on every kind of layer; alpha is not the rank."""
    return (
        with_lora(tiny_unet(), "unet", EVERYTHING),
        with_lora(tiny_text_encoder(), "text_encoder", EVERYTHING, r=3, alpha=1.25),
    )


def write(layout: str, path: Path, unet, text_encoder) -> Path:
    parts = {"unet": unet, "text_encoder": text_encoder}
    if layout == "peft":
        for part, module in parts.items():
            write_peft(path / part, module)
        return path
    writer = write_kohya if layout == "kohya" else write_diffusers
    return writer(
        path / "a.safetensors", parts=parts, names=SD.trainable, metadata={"ss_steps": "7"}
    )


def kohya(state: dict[str, Tensor], prefix: str, alpha: float | None) -> dict[str, Tensor]:
    """kohya's rule: the module's name with _ for ., then lora_down, lora_up, alpha."""
    found = {}
    for key, value in state.items():
        name, matrix = key.removesuffix(".weight").rsplit(".", 1)
        stem = prefix + name.replace(".", "_")
        found[f"{stem}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[matrix] }.weight"] = value
        if alpha is not None:
            found[f"{stem}.alpha"] = torch.tensor(alpha)
    return found


def applied(path: Path, scale: float = 1.0) -> Tensor:
    unet, text_encoder = tiny_unet(), tiny_text_encoder()
    apply_lora({"unet": unet, "text_encoder": text_encoder}, read_lora(path), scale)
    return outputs(unet, text_encoder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_files_go_round_exactly(layout: str, tmp_path: Path, tuned) -> None:
    path = write(layout, tmp_path, *tuned)
    lora_file = read_lora(path)
    assert lora_file.layout == layout
    unet_spec, text_spec = lora_file.specs["unet"], lora_file.specs["text_encoder"]
    kept = layout == "peft"  # elsewhere alpha is in the weights
    assert (unet_spec.r, unet_spec.alpha) == (4, 6.0 if kept else 4.0)
    assert (text_spec.r, text_spec.alpha) == (3, 1.25 if kept else 3.0)
    unet, text_encoder = tiny_unet(), tiny_text_encoder()
    apply_lora({"unet": unet, "text_encoder": text_encoder}, lora_file)
    for ours, theirs in zip((unet, text_encoder), tuned, strict=True):
        assert adapted_layers(ours).keys() == adapted_layers(theirs).keys()
        expected = folded_state(theirs)
        assert all(torch.equal(v, expected[k]) for k, v in folded_state(ours).items())
    found = outputs(unet, text_encoder)
    torch.testing.assert_close(found, outputs(*tuned), rtol=0, atol=0.0 if kept else 1e-5)
    assert torch.equal(applied(path, scale=0.0), outputs(tiny_unet(), tiny_text_encoder()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rslora_dora_and_mixed_ranks_go_round(layout: str, tmp_path: Path) -> None:
    names = [n for n, _ in tiny_unet().named_modules() if n.endswith("to_q")]
    unet = with_lora(
        tiny_unet(),
        "unet",
        EVERYTHING,
        use_dora=True,
        use_rslora=True,
        rank_pattern={names[0]: 2, "conv1": 5},
        alpha_pattern={names[1]: 3.0},
    )
    text_encoder = with_lora(
        tiny_text_encoder(), "text_encoder", ATTENTION, rank_pattern={"q_proj": 1}
    )
    path = write(layout, tmp_path, unet, text_encoder)
    # kohya's alpha is a float32, and rsLoRA's holds a square root
    torch.testing.assert_close(applied(path), outputs(unet, text_encoder), rtol=1e-4, atol=1e-5)


def test_kohya_keys_follow_the_rule(tmp_path: Path, tuned) -> None:
    unet, text_encoder = tuned
    found = load_file(write("kohya", tmp_path, unet, text_encoder))
    expected = kohya(lora_state_dict(unet), "lora_unet_", 4.0)
    expected |= kohya(lora_state_dict(text_encoder), "lora_te_text_model_", 3.0)
    for key in expected:  # alpha / r is in the weights, for programs that ignore alpha
        if "lora_up" in key:
            expected[key] = expected[key] * (6.0 / 4 if key.startswith("lora_unet") else 1.25 / 3)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert all(v.dtype == torch.float32 for v in found.values())
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_up.weight" in found
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert f"{stem}.lora_down.weight" in found


def test_kohya_metadata(tmp_path: Path, tuned) -> None:
    path = write("kohya", tmp_path, *tuned)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_steps"] == "7"
    assert metadata["ss_network_module"] == "networks.lora"
    assert json.loads(metadata["ss_network_args"]) == {  # text_encoder has another rank
        "mixed_ranks": True,
        "use_dora": False,
        "use_rslora": False,
    }
    assert (metadata["ss_network_dim"], float(metadata["ss_network_alpha"])) == ("4", 4.0)
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "a"
    data = path.read_bytes()
    content = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert metadata["sshs_model_hash"] == content
    assert metadata["modelspec.hash_sha256"] == f"0x{content}"


def test_diffusers_keys_and_config(tmp_path: Path, tuned) -> None:
    path = write("diffusers", tmp_path, *tuned)
    expected = {f"unet.{key}" for key in lora_state_dict(tuned[0])}
    expected |= {f"text_encoder.text_model.{key}" for key in lora_state_dict(tuned[1])}
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == expected
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config["unet.lora_alpha"] == config["unet.r"] == 4
    assert config["text_encoder.r"] == 3
    assert sorted(config["text_encoder.target_modules"]) == sorted(EVERYTHING["text_encoder"])


@pytest.mark.parametrize("prefix", ["lora_te_text_model_", "lora_te1_text_model_", "lora_te_"])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_other_trainers_kohya_files(tmp_path: Path, prefix: str, alpha: float | None) -> None:
    given = 4.0 if alpha is None else alpha  # no alpha: the rank
    unet = with_lora(tiny_unet(), "unet", EVERYTHING, alpha=given)
    text_encoder = with_lora(tiny_text_encoder(), "text_encoder", EVERYTHING, alpha=given)
    tensors = kohya(lora_state_dict(unet), "lora_unet_", alpha)
    tensors |= kohya(lora_state_dict(text_encoder), prefix, alpha)
    save_file(tensors, tmp_path / "theirs.safetensors")
    assert read_lora(tmp_path / "theirs.safetensors").layout == "kohya"
    applied_now = applied(tmp_path / "theirs.safetensors")
    assert torch.equal(applied_now, outputs(unet, text_encoder))


def sgm_name(name: str) -> str:
    """A layer of the tiny UNet in the original code's names, counted by hand.

    One layer a block: input_blocks 1 resnet (attention), 2 downsampler, 3 resnet; output_blocks
    0, 1 (upsampler after the last), 2, 3 with attention.
    """
    for ours, theirs in (
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.0.attentions.0", "input_blocks.1.1"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.resnets.0", "output_blocks.0.0"),
        ("up_blocks.0.resnets.1", "output_blocks.1.0"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv"),
        ("up_blocks.1.resnets.0", "output_blocks.2.0"),
        ("up_blocks.1.attentions.0", "output_blocks.2.1"),
        ("up_blocks.1.resnets.1", "output_blocks.3.0"),
        ("up_blocks.1.attentions.1", "output_blocks.3.1"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_out", "out.2"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        (".conv1", ".in_layers.2"),
        (".conv2", ".out_layers.3"),
        (".time_emb_proj", ".emb_layers.1"),
        (".conv_shortcut", ".skip_connection"),
    ):
        name = name.replace(ours, theirs)
    return name


def test_block_names_of_the_original_code(tmp_path: Path) -> None:
    unet = with_lora(tiny_unet(), "unet", EVERYTHING)
    tensors = {}
    for key, value in kohya(lora_state_dict(unet), "", 6.0).items():
        stem, rest = key.split(".", 1)
        layer = next(n for n in adapted_layers(unet) if n.replace(".", "_") == stem)
        tensors[f"lora_unet_{sgm_name(layer).replace('.', '_')}.{rest}"] = value
    assert not any("down_blocks" in key or "up_blocks" in key for key in tensors)
    save_file(tensors, tmp_path / "sgm.safetensors")
    other = tiny_unet()
    apply_lora({"unet": other}, read_lora(tmp_path / "sgm.safetensors", layers_per_block=1))
    assert torch.equal(outputs(other), outputs(unet))


def test_blocks_1_and_10_of_the_original_code_are_not_mixed_up(tmp_path: Path) -> None:
    pairs = {
        "input_blocks_1_1_proj_in": "down_blocks.0.attentions.0.proj_in",
        "input_blocks_10_0_in_layers_2": "down_blocks.3.resnets.0.conv1",
        "output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_11_1_transformer_blocks_0_attn1_to_q": (
            "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_q"
        ),
    }
    tensors = {}
    for index, stem in enumerate(pairs):
        for matrix in ("lora_down", "lora_up"):
            tensors[f"lora_unet_{stem}.{matrix}.weight"] = torch.full((2, 2), float(index))
    save_file(tensors, tmp_path / "sd1.safetensors")
    found = read_lora(tmp_path / "sd1.safetensors").states["unet"]
    for index, layer in enumerate(pairs.values()):
        assert found[f"{layer}.lora_A.weight"][0, 0] == index
    assert len(found) == 2 * len(pairs)


OLD_NAMES = ("to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora")
OLD_UNET = dict(zip(ATTENTION["unet"], OLD_NAMES, strict=True))
OLD_TEXT = dict(zip(ATTENTION["text_encoder"], OLD_NAMES, strict=True))


def renamed(state: dict[str, Tensor], prefix: str, style: str, old: dict[str, str]):
    """Raw peft keys in an older diffusers style."""
    sides = {"lora_A": "down", "lora_B": "up"}
    for key, value in state.items():
        name, matrix = key.removesuffix(".weight").rsplit(".", 1)
        if style == "dots":
            yield f"{prefix}{name}.lora.{sides[matrix]}.weight", value
        elif style == "linear_layer":
            yield f"{prefix}{name}.lora_linear_layer.{sides[matrix]}.weight", value
        else:
            end = next(e for e in old if name.endswith(e))
            stem = name.removesuffix(end) + ("processor." if "attn1" in name or "attn2" in name
                                             else "") + old[end]  # fmt: skip
            yield f"{prefix}{stem}.{sides[matrix]}.weight", value


@pytest.mark.parametrize(
    ("unet_style", "unet_prefix", "text_style"),
    [
        ("dots", "unet.", "linear_layer"),
        ("processor", "unet.", "processor"),
        ("processor", "", None),  # the first files held attention processors of the UNet alone
    ],
)
def test_old_diffusers_files(
    tmp_path: Path, unet_style: str, unet_prefix: str, text_style: str | None
) -> None:
    unet = with_lora(tiny_unet(), "unet", ATTENTION, alpha=4.0)
    text_encoder = tiny_text_encoder()
    tensors = dict(renamed(lora_state_dict(unet), unet_prefix, unet_style, OLD_UNET))
    if text_style:
        with_lora(text_encoder, "text_encoder", ATTENTION, alpha=4.0)
        prefix = "text_encoder.text_model."
        tensors |= renamed(lora_state_dict(text_encoder), prefix, text_style, OLD_TEXT)
    save_file(tensors, tmp_path / "old.safetensors")
    assert read_lora(tmp_path / "old.safetensors").layout == "diffusers"
    assert torch.equal(applied(tmp_path / "old.safetensors"), outputs(unet, text_encoder))


def test_a_folder_that_peft_wrote(tmp_path: Path) -> None:
    unet = with_lora(tiny_unet(), "unet", ATTENTION)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(ATTENTION["unet"]))
    theirs: PeftModel = get_peft_model(tiny_unet(), config)
    prefixed = {f"base_model.model.{k}": v for k, v in lora_state_dict(unet).items()}
    set_peft_model_state_dict(theirs, prefixed)
    theirs.save_pretrained(tmp_path / "peft")
    other = tiny_unet()
    apply_lora({"unet": other}, read_lora(tmp_path / "peft"))
    assert torch.equal(outputs(other), outputs(unet))


def test_linear_layers_and_1x1_convolutions_stand_for_each_other(tmp_path: Path) -> None:
    unet = with_lora(tiny_unet(), "unet", {"unet": ("proj_in",)})  # a convolution here
    flat = {k: v.flatten(1) for k, v in lora_state_dict(unet).items()}
    save_file(kohya(flat, "lora_unet_", 6.0), tmp_path / "flat.safetensors")
    other = tiny_unet()
    apply_lora({"unet": other}, read_lora(tmp_path / "flat.safetensors"))
    assert torch.equal(outputs(other), outputs(unet))


def test_what_does_not_fit_is_listed_before_the_model_is_touched(tmp_path: Path, tuned) -> None:
    tensors = load_file(write("kohya", tmp_path, *tuned))
    wide = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors[f"{wide}.lora_down.weight"] = torch.zeros(4, 320)
    for matrix in ("lora_down", "lora_up"):
        tensors[f"lora_unet_down_blocks_7_resnets_0_conv1.{matrix}.weight"] = torch.zeros(4, 4)
        tensors[f"lora_te_text_model_encoder_layers_9_mlp_fc1.{matrix}.weight"] = torch.zeros(4, 4)
    save_file(tensors, tmp_path / "wrong.safetensors")
    unet, text_encoder = tiny_unet(), tiny_text_encoder()
    before = outputs(unet, text_encoder)
    with pytest.raises(LoraError) as caught:
        apply_lora(
            {"unet": unet, "text_encoder": text_encoder}, read_lora(tmp_path / "wrong.safetensors")
        )
    text = str(caught.value)
    assert "5 problems" in text
    assert "attn1.to_q.lora_A.weight: shape [4, 320], the layer needs [4, 32]" in text
    assert "down_blocks.7.resnets.0.conv1.lora_A.weight: matches no layer" in text
    assert "text_encoder.encoder.layers.9.mlp.fc1.lora_A.weight: matches no layer" in text
    assert not adapted_layers(unet)
    assert not adapted_layers(text_encoder)
    assert torch.equal(outputs(unet, text_encoder), before)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("lora_te3_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "lora_te3"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "hada_w1_a"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight", "lora_mid"),
        ("bundle_emb.token.string_to_param.*", "bundle_emb"),
        ("lora_unet_conv_in.lora_down.weight", "conv_in: has only A"),
    ],
)
def test_a_key_that_is_no_lora_is_named(tmp_path: Path, key: str, shown: str) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_out"
    tensors = {f"{stem}.lora_{side}.weight": torch.zeros(2, 2) for side in ("down", "up")}
    save_file({**tensors, key: torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match=shown):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("alpha", [0.0, -1.0, torch.nan, torch.inf])
def test_what_a_file_says_of_alpha_is_checked(tmp_path: Path, alpha: float) -> None:
    stem = "lora_unet_conv_in"
    tensors = {f"{stem}.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")}
    config = {"unet.lora_alpha": alpha, "unet.r": 2}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(
        LoraError, match=r"x.safetensors: conv_in: rank 2, alpha .*download it again"
    ):
        read_lora(tmp_path / "x.safetensors")


def test_a_file_of_no_rank_is_refused(tmp_path: Path) -> None:
    shapes = {"down": (0, 2), "up": (2, 0)}
    tensors = {f"lora_unet_conv_in.lora_{k}.weight": torch.zeros(v) for k, v in shapes.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match="conv_in: rank 0, alpha 0.0; a rank is at least 1"):
        read_lora(tmp_path / "x.safetensors")


def test_two_spellings_of_one_layer_are_refused(tmp_path: Path) -> None:
    stems = ("lora_unet_conv_in", "lora_unet_input_blocks_0_0")
    tensors = {f"{s}.lora_{m}.weight": torch.zeros(2, 2) for s in stems for m in ("down", "up")}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match="a second one"):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_neither_read_nor_written(tmp_path: Path, value: float) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_out"
    tensors = {f"{stem}.lora_{side}.weight": torch.zeros(2, 2) for side in ("down", "up")}
    tensors[f"{stem}.lora_up.weight"][1, 1] = value
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match=rf"NaN or infinity in 1 tensors\s+{stem}.lora_up"):
        read_lora(tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match="NaN or infinity"):
        write_weights(tmp_path / "y.safetensors", tensors, {})
    assert not (tmp_path / "y.safetensors").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.ckpt"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    data = pickle.dumps(Evil(tmp_path / "ran"), protocol=2)
    if zipped:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(LoraError, match="pickle.*safetensors"):
        read_lora(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_is_not_a_lora_file_says_so(tmp_path: Path, tuned) -> None:
    whole = write("kohya", tmp_path / "whole", *tuned).read_bytes()
    cases = {
        "cut": (
            whole[: len(whole) // 2],
            "has .* bytes, a download that broke off; fetch it again",
        ),
        "header": (whole[:4], "a download that broke off"),
        "empty": (b"", "is empty"),
        "page": (b"\n<!DOCTYPE html><html>", "is a web page, not weights"),
        "pointer": (
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer.*git lfs pull",
        ),
        "text": (b'{"error": "no"}', "is a JSON text, not weights"),
    }
    for name, (data, reason) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(LoraError, match=rf"{name}.safetensors: .*{reason}"):
            read_lora(path)
    with pytest.raises(LoraError, match="no such file"):
        read_lora(tmp_path / "missing.safetensors")
    with pytest.raises(LoraError, match="found: cut.safetensors, empty.safetensors"):
        read_lora(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_is_found(layout: str, tmp_path: Path, tuned) -> None:
    path = write(layout, tmp_path, *tuned)
    file = path / "unet" / "adapter_model.safetensors" if layout == "peft" else path
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1  # among the tensors
    file.write_bytes(data)
    with pytest.raises(LoraError, match="not what was written"):
        read_lora(path)


def test_a_changed_config_is_found(tmp_path: Path, tuned) -> None:
    for layout in ("diffusers", "peft"):
        path = write(layout, tmp_path / layout, *tuned)
        file = path / "unet" / "adapter_config.json" if layout == "peft" else path
        data = file.read_bytes()
        alpha = b"6.0" if layout == "peft" else b'unet.lora_alpha\\": 4.0'
        assert data.count(alpha) == 1
        file.write_bytes(data.replace(alpha, alpha[:-3] + b"8.0"))
        with pytest.raises(LoraError, match="not what was written"):
            read_lora(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [({"steps": 7}, "must be text.*steps"), ({"thumbnail": "x" * 2**25}, "bytes of metadata")],
)
def test_metadata_that_no_header_holds_is_refused(tmp_path: Path, metadata, reason, tuned) -> None:
    with pytest.raises(LoraError, match=reason):
        write_diffusers(
            tmp_path / "x.safetensors",
            parts={"unet": tuned[0]},
            names=SD.trainable,
            metadata=metadata,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", [{}, {"use_dora": True}, {"init": "pissa"}, {"use_rslora": True}])
def test_a_file_is_loaded_back_into_the_adapter_of_a_base_whose_weights_have_no_shape(
    spec: dict[str, object], tmp_path: Path
) -> None:
    """As of a quantised base: its weights are packed, in one column."""
    unet = with_lora(tiny_unet(), "unet", EVERYTHING, **spec)
    before = lora_state_dict(unet)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    write_diffusers(path, parts={"unet": unet}, names=SD.trainable, metadata={})
    randomise(unet, seed=3)
    for name, module in unet.named_modules():
        if name.endswith("base_layer"):
            module.weight = torch.nn.Parameter(module.weight.detach().reshape(-1, 1))
    restore_lora({"unet": unet}, read_lora(path))
    after = lora_state_dict(unet)
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(value, after[key], rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [640, 1152])  # 0x280 and 0x480, as a pickle begins
def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    stem, path = "lora_unet_conv_in", tmp_path / "x.safetensors"
    tensors = {f"{stem}.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")}
    save_file(tensors, path, {"note": ""})
    lacking = length - int.from_bytes(path.read_bytes()[:8], "little")
    save_file(tensors, path, {"note": "x" * lacking})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert list(read_lora(path).layers("unet")) == ["conv_in"]
