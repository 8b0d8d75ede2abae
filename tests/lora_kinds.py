"""Small LoRA files of every kind that is shared, each written from its format's description.

A row gives the tensors as their trainer writes them, and the weights that the model must have with
them, worked out by the format's formula in float64: two computations that share no code with the
package.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.unit.adapters.tiny_models import tiny_text_encoder, tiny_unet

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # [16, 16]
K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"  # [32, 16]
FF = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"  # [32, 128]
CONV = "mid_block.resnets.0.conv1"  # [32, 32, 3, 3]
PROJ = "mid_block.attentions.0.proj_in"  # [32, 32, 1, 1]
NORM = "mid_block.attentions.0.norm"  # [32]
TEXT = "encoder.layers.1.self_attn.q_proj"  # [16, 16]
SGM = {
    Q: "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    K: "middle_block.1.transformer_blocks.0.attn2.to_k",
    FF: "middle_block.1.transformer_blocks.0.ff.net.2",
    CONV: "middle_block.0.in_layers.2",
}
"""Their names in the original code; the tiny U-Net has one resnet in a block."""

UNET, TE = tiny_unet(), tiny_text_encoder()
"""The base. Its parts are never changed."""


@dataclass
class Made:
    """A file's content, and what it must do.

    Attributes:
        tensors: By key.
        unet: Parameter of the U-Net -> its value with the file.
        text: The same of the text encoder.
        metadata: The header.
        write: Writes something else than one file, and returns its path.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unet: dict[str, Tensor] = field(default_factory=dict)
    text: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    write: Callable[[Path], Path] | None = None

    def file(self, folder: Path) -> Path:
        """Write it."""
        if self.write is not None:
            return self.write(folder)
        path = folder / "made.safetensors"
        plain = {key: value.float().contiguous() for key, value in self.tensors.items()}
        save_file(plain, path, self.metadata)
        return path


@dataclass(frozen=True)
class Row:
    """A kind of file.

    Attributes:
        make: Its maker.
        kind: What ``inspect`` calls it.
        convert: ``exact``, ``svd`` (nearest), ``base`` (exact with a base), ``base svd``, ``dora``
            (stays one), or ``not held`` (no plain LoRA holds all of it).
        note: What it is, for the table.
        skip: Whether it holds what only ``--skip-unknown`` leaves out.
    """

    make: Callable[[], Made]
    kind: str
    convert: str
    note: str
    skip: bool = False


ROWS: dict[str, Row] = {}


def row(name: str, kind: str, convert: str, note: str, skip: bool = False):
    """Add a row."""

    def add(make: Callable[[], Made]) -> Callable[[], Made]:
        ROWS[name] = Row(make, kind, convert, note, skip)
        return make

    return add


def weight(layer: str, module: nn.Module = UNET) -> Tensor:
    return module.get_parameter(f"{layer}.weight").detach().double()


def bias(layer: str, module: nn.Module = UNET) -> Tensor:
    return module.get_parameter(f"{layer}.bias").detach().double()


class Draws:
    """Random tensors of one file."""

    def __init__(self, seed: int) -> None:
        self.draws = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, size: float = 0.3) -> Tensor:
        return (torch.randn(*shape, generator=self.draws) * size).double()

    def pair(self, layer: str, r: int, module: nn.Module = UNET) -> tuple[Tensor, Tensor]:
        """A and B of a layer, in the shapes of kohya and peft."""
        shape = weight(layer, module).shape
        ones = [1] * (len(shape) - 2)
        return self(r, *shape[1:]), self(shape[0], r, *ones)


def product(a: Tensor, b: Tensor) -> Tensor:
    return (b.flatten(1) @ a.flatten(1)).reshape(b.shape[0], *a.shape[1:])


def flat(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def flat_text(layer: str) -> str:
    return "lora_te_text_model_" + layer.replace(".", "_")


def kohya_pair(stem: str, a: Tensor, b: Tensor, alpha: float | None) -> dict[str, Tensor]:
    found = {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
    return found if alpha is None else {**found, f"{stem}.alpha": torch.tensor(alpha)}


def plain(alpha: float | None, name: Callable[[str], str], text: Callable[[str], str] | None,
          layers: tuple[str, ...] = (Q, K)) -> tuple[Made, list]:  # fmt: skip
    """A LoRA in kohya's roles; its matrices too."""
    draw, made, pairs = Draws(1), Made(), []
    for module, target, rename, each in (
        *((UNET, made.unet, name, layer) for layer in layers),
        *((TE, made.text, text, layer) for layer in (TEXT,) if text is not None),
    ):
        a, b = draw.pair(each, 4, module)
        scale = 1.0 if alpha is None else alpha / 4
        target[f"{each}.weight"] = weight(each, module) + scale * product(a, b)
        made.tensors |= kohya_pair(rename(each), a, b, alpha)
        pairs.append((each, a, b))
    return made, pairs


def respelled(made: Made, ends: Mapping[str, str]) -> Made:
    """The same with other ends of keys."""
    for ours, theirs in ends.items():
        made.tensors = {key.replace(ours, theirs): v for key, v in made.tensors.items()}
    return made


AB = {".lora_down.": ".lora_A.", ".lora_up.": ".lora_B."}


@row("kohya", "LoRA", "exact", "kohya's trainer, U-Net and text encoder")
def kohya() -> Made:
    return plain(6.0, flat, flat_text)[0]


@row("kohya, no alpha", "LoRA", "exact", "kohya's names without alpha: it is the rank")
def kohya_without_alpha() -> Made:
    return plain(None, flat, flat_text)[0]


@row("kohya, original blocks", "LoRA", "exact", "kohya's SDXL trainer: `input_blocks`")
def kohya_sgm() -> Made:
    return plain(6.0, lambda layer: "lora_unet_" + SGM[layer].replace(".", "_"), None)[0]


@row("kohya, lora_A", "LoRA", "exact", "kohya's names with peft's `lora_A`, `lora_B`")
def kohya_ab() -> Made:
    return respelled(kohya(), AB)


@row("kohya, scalar", "LoRA", "exact", "LyCORIS `use_scalar`: a trained factor")
def kohya_scalar() -> Made:
    made, _ = plain(6.0, flat, None, (Q,))
    made.tensors[f"{flat(Q)}.scalar"] = torch.tensor(0.5)
    made.unet[f"{Q}.weight"] = (made.unet[f"{Q}.weight"] + weight(Q)) / 2
    return made


@row("LoCon", "LoCon", "exact", "LoRA of convolutions")
def locon() -> Made:
    return plain(2.0, flat, None, (CONV,))[0]


@row("LoCon, lora_mid", "LoCon with a core (CP)", "exact", "a core between A and B (CP, Tucker)")
def locon_mid() -> Made:
    draw = Draws(2)
    a, b, mid = draw(4, 32, 1, 1), draw(32, 4, 1, 1), draw(4, 4, 3, 3)
    made = Made(kohya_pair(flat(CONV), a, b, 2.0))
    made.tensors[f"{flat(CONV)}.lora_mid.weight"] = mid
    update = sum(
        torch.einsum("o,i,hw->oihw", b[:, p, 0, 0], a[q, :, 0, 0], mid[p, q])
        for p in range(4)
        for q in range(4)
    )
    made.unet[f"{CONV}.weight"] = weight(CONV) + 0.5 * update
    return made


@row("diffusers", "LoRA", "exact", "`save_lora_weights`, alpha in the header")
def diffusers() -> Made:
    made, _ = plain(6.0, lambda n: f"unet.{n}", lambda n: f"text_encoder.text_model.{n}")
    made.tensors = {k: v for k, v in made.tensors.items() if not k.endswith(".alpha")}
    config = {}
    for part, layers in (("unet", [Q, K]), ("text_encoder", ["1.self_attn.q_proj"])):
        own = {"r": 4, "lora_alpha": 6.0, "target_modules": layers}
        config |= {f"{part}.{key}": value for key, value in own.items()}
    made.metadata["lora_adapter_metadata"] = json.dumps(config)
    return respelled(made, AB)


@row("diffusers, lora.down", "LoRA", "exact", "diffusers 0.19: `.lora.down`, `.lora_linear_layer`")
def diffusers_dots() -> Made:
    made, _ = plain(None, lambda n: f"unet.{n}", lambda n: f"text_encoder.text_model.{n}")
    own = {}
    for key, value in made.tensors.items():
        middle = ".lora_linear_layer." if key.startswith("text") else ".lora."
        own[key.replace(".lora_", middle)] = value
    made.tensors = own
    return made


@row(
    "attention processors",
    "LoRA",
    "exact",
    "first diffusers files: `processor.to_q_lora`",
)
def processors() -> Made:
    made, _ = plain(None, lambda n: n.replace(".to_", ".processor.to_"), None)
    return respelled(made, {".lora_down.": "_lora.down.", ".lora_up.": "_lora.up."})


@row("peft keys", "LoRA", "exact", "a bare peft state dict: `base_model.model.`, `.default.`")
def peft_keys() -> Made:
    made, _ = plain(None, lambda n: f"base_model.model.{n}", None)
    return respelled(
        respelled(made, AB), {"lora_A.": "lora_A.default.", "lora_B.": "lora_B.default."}
    )


@row("ComfyUI LoraSave", "LoRA", "exact", "`diffusion_model.`, `text_encoders.clip_l`, no alpha")
def comfy_save() -> Made:
    clip = "text_encoders.clip_l.transformer.text_model."
    return plain(None, lambda n: f"diffusion_model.{SGM[n]}", lambda n: clip + n)[0]


@row("ComfyUI LoraSave, bias", "LoRA", "not held", "the same with `diff_b`, the bias's difference")
def comfy_bias() -> Made:
    made, _ = plain(None, lambda n: f"diffusion_model.{SGM[n]}", None, (FF,))
    change = Draws(3)(32)
    made.tensors[f"diffusion_model.{SGM[FF]}.diff_b"] = change
    made.unet[f"{FF}.bias"] = bias(FF) + change
    return made


@row("OneTrainer, embedding", "LoRA", "exact", "legacy, with a bundled word", skip=True)
def onetrainer_legacy() -> Made:
    made = kohya()
    made.tensors["bundle_emb.sks.clip_l"] = Draws(4)(2, 16)
    return made


@row("OneTrainer COMFY", "LoRA", "exact", "`diffusion_model.`, `lora_A`, alpha as a tensor")
def onetrainer_comfy() -> Made:
    clip = "text_encoders.clip_l.transformer.text_model."
    made, _ = plain(6.0, lambda n: f"diffusion_model.{SGM[n]}", lambda n: clip + n)
    return respelled(made, AB)


@row("OneTrainer OMI", "LoRA", "exact", "Open Model Initiative: `unet.`, `clip_l.`")
def onetrainer_omi() -> Made:
    return plain(6.0, lambda n: f"unet.{SGM[n]}", lambda n: f"clip_l.text_model.{n}")[0]


def lengths(value: Tensor, axis: int) -> Tensor:
    others = [d for d in range(value.ndim) if d != axis]
    return value.square().sum(others, keepdim=True).sqrt()


def dora(name: Callable[[str], str], layers: tuple[str, ...], axis: int,
         module: nn.Module = UNET) -> Made:  # fmt: skip
    """Rows (axis 0) or columns (1) of W + BA brought to trained lengths."""
    draw, made = Draws(5), Made()
    target = made.unet if module is UNET else made.text
    for layer in layers:
        a, b = draw.pair(layer, 4, module)
        own = weight(layer, module)
        trained = lengths(own, axis) * (1 + draw(1).abs() + 0.1)
        changed = own + 1.5 * product(a, b)
        made.tensors |= kohya_pair(name(layer), a, b, 6.0)
        made.tensors[f"{name(layer)}.dora_scale"] = trained
        target[f"{layer}.weight"] = changed * trained / lengths(changed, axis)
    return made


@row("DoRA by outputs", "LoRA, DoRA by output", "dora", "LyCORIS `wd_on_out`, kohya's names")
def dora_out() -> Made:
    return dora(flat, (Q, K, CONV), 0)


@row("DoRA by inputs", "LoRA, DoRA by input", "base svd", "OneTrainer's default, old LyCORIS")
def dora_in() -> Made:
    return dora(flat, (Q, K, CONV), 1)


@row("DoRA on some layers", "LoRA, DoRA by output", "base svd", "beside plain layers")
def dora_some() -> Made:
    made, other = dora(flat, (Q,), 0), plain(6.0, flat, None, (K, FF))[0]
    return Made({**made.tensors, **other.tensors}, {**made.unet, **other.unet})


@row("DoRA on a text encoder", "LoRA, DoRA by output", "base svd", "which peft's files cannot hold")
def dora_text() -> Made:
    return dora(flat_text, (TEXT,), 0, TE)


@row(
    "OneTrainer DIFFUSERS, DoRA", "LoRA, DoRA by input", "base svd", "`lora_A` beside `dora_scale`"
)
def onetrainer_dora() -> Made:
    made = dora(lambda n: f"unet.{n}", (Q, K), 1)
    return respelled(made, AB)


def loha(layer: str, name: Callable[[str], str] = flat) -> Made:
    draw, out = Draws(6), weight(layer).shape[0]
    stem, size = name(layer), weight(layer)[0].numel()
    one, two = (draw(out, 2), draw(2, size)), (draw(out, 2), draw(2, size))
    made = Made({f"{stem}.alpha": torch.tensor(1.0)})
    for number, (first, second) in enumerate((one, two), start=1):
        made.tensors |= {f"{stem}.hada_w{number}_a": first, f"{stem}.hada_w{number}_b": second}
    update = 0.5 * (one[0] @ one[1]) * (two[0] @ two[1])
    made.unet[f"{layer}.weight"] = weight(layer) + update.reshape(weight(layer).shape)
    return made


@row("LoHa", "LoHa", "exact", "rank r becomes r²")
def loha_linear() -> Made:
    return loha(FF)


@row("LoHa of a convolution", "LoHa", "exact", "its kernel is flat in the file")
def loha_conv() -> Made:
    return loha(CONV)


@row("LoHa, CP", "LoHa with a core (CP)", "exact", "`hada_t1`, `hada_t2`")
def loha_cp() -> Made:
    draw, stem, made = Draws(7), flat(CONV), Made()
    halves = []
    for number in (1, 2):
        core, first, second = draw(2, 2, 3, 3), draw(2, 32), draw(2, 32)
        made.tensors |= {f"{stem}.hada_t{number}": core, f"{stem}.hada_w{number}_a": first,
                         f"{stem}.hada_w{number}_b": second}  # fmt: skip
        halves.append(sum(torch.einsum("o,i,hw->oihw", first[p], second[q], core[p, q])
                          for p in range(2) for q in range(2)))  # fmt: skip
    made.tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    made.unet[f"{CONV}.weight"] = weight(CONV) + 0.5 * halves[0] * halves[1]
    return made


@row("LoHa, DoRA", "LoHa, DoRA by output", "base svd", "DoHa")
def loha_dora() -> Made:
    made = loha(FF)
    changed, trained = made.unet[f"{FF}.weight"], lengths(weight(FF), 0) * 1.3
    made.tensors[f"{flat(FF)}.dora_scale"] = trained
    made.unet[f"{FF}.weight"] = changed * trained / lengths(changed, 0)
    return made


def kron(left: Tensor, right: Tensor) -> Tensor:
    """Block (i, j) is ``left[i, j]`` times ``right``."""
    rows = [torch.cat([left[i, j] * right for j in range(left.shape[1])], 1)
            for i in range(left.shape[0])]  # fmt: skip
    return torch.cat(rows, 0)


def lokr(layer: str, tensors: dict[str, Tensor], update: Tensor, stem: str = "") -> Made:
    stem = stem or flat(layer)
    made = Made({f"{stem}.{role}": value for role, value in tensors.items()})
    made.unet[f"{layer}.weight"] = weight(layer) + update
    return made


@row("LoKr, whole", "LoKr", "exact", "both matrices whole: the scale is 1, whatever alpha says")
def lokr_whole() -> Made:
    draw = Draws(8)
    left, right = draw(2, 4), draw(16, 32)
    tensors = {"lokr_w1": left, "lokr_w2": right, "alpha": torch.tensor(1e10)}
    return lokr(FF, tensors, kron(left, right))


@row("LoKr, right factored", "LoKr", "exact", "`lokr_w2_a`, `lokr_w2_b`")
def lokr_right() -> Made:
    draw = Draws(9)
    left, first, second = draw(2, 4), draw(16, 3), draw(3, 32)
    tensors = {"lokr_w1": left, "lokr_w2_a": first, "lokr_w2_b": second,
               "alpha": torch.tensor(1.5)}  # fmt: skip
    return lokr(FF, tensors, 0.5 * kron(left, first @ second))


@row("LoKr, left factored", "LoKr", "exact", "`lokr_w1_a`, `lokr_w1_b`")
def lokr_left() -> Made:
    draw = Draws(10)
    first, second, right = draw(8, 2), draw(2, 8), draw(4, 16)
    tensors = {"lokr_w1_a": first, "lokr_w1_b": second, "lokr_w2": right,
               "alpha": torch.tensor(1.0)}  # fmt: skip
    return lokr(FF, tensors, 0.5 * kron(first @ second, right))


@row("LoKr, both factored", "LoKr", "exact", "rank is the product of both")
def lokr_both() -> Made:
    draw = Draws(11)
    one, two, three, four = draw(4, 2), draw(2, 8), draw(8, 2), draw(2, 16)
    tensors = {"lokr_w1_a": one, "lokr_w1_b": two, "lokr_w2_a": three, "lokr_w2_b": four,
               "alpha": torch.tensor(1.0)}  # fmt: skip
    return lokr(FF, tensors, 0.5 * kron(one @ two, three @ four))


@row("LoKr, CP", "LoKr with a core (CP)", "exact", "`lokr_t2` of a convolution")
def lokr_cp() -> Made:
    draw = Draws(12)
    left, core, first, second = draw(2, 2), draw(3, 3, 3, 3), draw(3, 16), draw(3, 16)
    tensors = {"lokr_w1": left, "lokr_t2": core, "lokr_w2_a": first, "lokr_w2_b": second,
               "alpha": torch.tensor(1.5)}  # fmt: skip
    right = sum(torch.einsum("o,i,hw->oihw", first[p], second[q], core[p, q])
                for p in range(3) for q in range(3))  # fmt: skip
    return lokr(CONV, tensors, 0.5 * kron(left, right))


@row("SimpleTuner LoKr", "LoKr", "exact", "LyCORIS' own prefix, `lycoris_`")
def simpletuner() -> Made:
    made = lokr_right()
    return respelled(made, {"lora_unet_": "lycoris_"})


@row("IA3 on outputs", "IA3", "base svd", "LyCORIS: factor less 1")
def ia3_out() -> Made:
    factor, stem = Draws(13)(32), flat(FF)
    made = Made({f"{stem}.weight": factor, f"{stem}.on_input": torch.tensor(0.0)})
    made.unet[f"{FF}.weight"] = weight(FF) * (1 + factor)[:, None]
    return made


@row("IA3 on inputs", "IA3", "base svd", "`on_input` is 1")
def ia3_in() -> Made:
    factor, stem = Draws(14)(128), flat(FF)
    made = Made({f"{stem}.weight": factor, f"{stem}.on_input": torch.tensor(1.0)})
    made.unet[f"{FF}.weight"] = weight(FF) * (1 + factor)
    return made


def glora(old: bool) -> Made:
    draw, stem = Draws(15), flat(K)
    first, second, third, fourth = draw(16, 3), draw(3, 16), draw(32, 3), draw(3, 16)
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    values = zip(names, (first, second, third, fourth), strict=True)
    made = Made({f"{stem}.{name}.weight": value for name, value in values})
    made.tensors[f"{stem}.alpha"] = torch.tensor(1.5)
    update = weight(K) @ first @ second + third @ fourth
    made.unet[f"{K}.weight"] = weight(K) + 0.5 * update
    return made


@row("GLoRA", "GLoRA", "base", "W A + B: twice the rank")
def glora_new() -> Made:
    return glora(old=False)


@row("GLoRA, old names", "GLoRA", "base", "LyCORIS before 2.0")
def glora_old() -> Made:
    return glora(old=True)


def cayley(q: Tensor) -> Tensor:
    one = torch.eye(q.shape[-1], dtype=q.dtype)
    return (one + q) @ torch.linalg.inv(one - q)


@row("OFT", "OFT", "base svd", "outputs turned by blocks; bound and `rescale`")
def oft() -> Made:
    draw, stem = Draws(16), flat(FF)
    blocks, rescale = draw(8, 4, 4), 1 + draw(32, 1)
    bound = torch.tensor(0.05)  # times 32 outputs
    q = blocks - blocks.mT
    q = q * min(1.0, float(0.05 * 32 / q.square().sum().sqrt()))
    rows = [cayley(q[n]).T @ weight(FF)[4 * n : 4 * n + 4] for n in range(8)]
    made = Made({f"{stem}.oft_blocks": blocks, f"{stem}.rescale": rescale, f"{stem}.alpha": bound})
    made.unet[f"{FF}.weight"] = rescale * torch.cat(rows)
    return made


@row("BOFT", "BOFT", "base svd", "two stages of blocks")
def boft() -> Made:
    draw, stem = Draws(17), flat(FF)
    blocks = draw(2, 8, 4, 4)
    turns = cayley(blocks - blocks.mT)
    value = weight(FF)
    for stage in range(2):
        stride = 2 * 2**stage
        groups = [[base + g * stride + k for k in range(stride) for g in range(2)]
                  for base in range(0, 32, 2 * stride)]  # fmt: skip
        order = torch.tensor([index for group in groups for index in group])
        mixed = value[order]
        turned = torch.cat([turns[stage, n] @ mixed[4 * n : 4 * n + 4] for n in range(8)])
        value = torch.empty_like(value)
        value[order] = turned
    made = Made({f"{stem}.oft_blocks": blocks, f"{stem}.alpha": torch.tensor(0.0)})
    made.unet[f"{FF}.weight"] = value
    return made


@row("OneTrainer OFT", "OFT on the inputs", "base svd", "`oft_R`: numbers above the diagonal")
def oft_inputs() -> Made:
    stored = Draws(18)(16, 28, size=0.05)  # 16 blocks of 8 inputs
    q = torch.zeros(16, 8, 8, dtype=torch.float64)
    row_, column = torch.triu_indices(8, 8, 1)
    q[:, row_, column] = stored
    q = q - q.mT
    turn = torch.eye(8, dtype=torch.float64) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    made = Made({f"unet.{FF}.oft_R.weight": stored, f"unet.{FF}.alpha": torch.tensor(1.0)})
    columns = [weight(FF)[:, 8 * n : 8 * n + 8] @ turn[n].T for n in range(16)]
    made.unet[f"{FF}.weight"] = torch.cat(columns, 1)
    return made


@row("norms", "norm", "not held", "LyCORIS `w_norm`, `b_norm`")
def norms() -> Made:
    draw, stem = Draws(19), flat(NORM)
    scale, shift = draw(32), draw(32)
    made = Made({f"{stem}.w_norm": scale, f"{stem}.b_norm": shift})
    made.unet = {f"{NORM}.weight": weight(NORM) + scale, f"{NORM}.bias": bias(NORM) + shift}
    return made


@row("full difference", "full difference", "svd", "A1111's and LyCORIS' `diff`")
def full() -> Made:
    change = Draws(20)(*weight(CONV).shape, size=0.05)
    made = Made({f"{flat(CONV)}.diff": change})
    made.unet[f"{CONV}.weight"] = weight(CONV) + change
    return made


@row("full difference, bias", "full difference", "not held", "`diff` and `diff_b`")
def full_bias() -> Made:
    made, change = full(), Draws(21)(32)
    made.tensors[f"{flat(CONV)}.diff_b"] = change
    made.unet[f"{CONV}.bias"] = bias(CONV) + change
    return made


@row("mixed", "LoRA", "exact", "LoRA, LoHa and LoKr by layer, as LyCORIS presets give")
def mixed() -> Made:
    parts = [kohya(), loha(CONV), lokr_right()]
    return Made(
        {key: value for made in parts for key, value in made.tensors.items()},
        {key: value for made in parts for key, value in made.unet.items()},
        parts[0].text,
    )


def by_peft(config) -> Made:
    """A folder that peft wrote, and the weights that peft's own merging gives."""
    model = get_peft_model(tiny_unet(), config)
    draw = Draws(22)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                around = 1.0 if "ia3_l" in name else 0.0
                size = 0.02 if "oft" in name else 0.2
                parameter.copy_(around + draw(*parameter.shape, size=size))

    def write(folder: Path) -> Path:
        with warnings.catch_warnings():  # peft takes a bias for a matrix of a sharded model
            warnings.filterwarnings("ignore", ".*invalid shape")
            model.save_pretrained(folder / "peft")
        return folder / "peft"

    made = Made(write=write)
    merged = get_peft_model(tiny_unet(), config)
    merged.load_state_dict(model.state_dict())
    for name, value in merged.merge_and_unload().named_parameters():
        if not torch.equal(value, UNET.get_parameter(name)):
            made.unet[name] = value.detach().double()
    return made


@row("peft folder", "LoRA", "exact", "`PeftModel.save_pretrained`, rslora, rank and alpha patterns")
def peft_folder() -> Made:
    return by_peft(LoraConfig(r=4, lora_alpha=6, target_modules=[Q, K, FF], use_rslora=True,
                              rank_pattern={K: 2}, alpha_pattern={FF: 3}))  # fmt: skip


@row("peft folder, bias", "LoRA", "not held", "`lora_bias`: B has a bias")
def peft_bias() -> Made:
    return by_peft(LoraConfig(r=4, lora_alpha=6, target_modules=[FF], lora_bias=True))


@row("peft folder, LoHa", "LoHa", "exact", "alpha in its config")
def peft_loha() -> Made:
    return by_peft(LoHaConfig(r=2, alpha=3, target_modules=[Q, FF]))


@row("peft folder, LoKr", "LoKr", "exact", "alpha over the config's rank")
def peft_lokr() -> Made:
    return by_peft(LoKrConfig(r=2, alpha=3, target_modules=[FF], decompose_factor=4))


@row("peft folder, whole LoKr", "LoKr", "exact", "two whole matrices, alpha over the config's rank")
def peft_lokr_whole() -> Made:
    return by_peft(LoKrConfig(r=64, alpha=96, target_modules=[FF], decompose_factor=4))


@row("peft folder, OFT", "OFT on the inputs", "base svd", "Cayley's transform as a series")
def peft_oft() -> Made:
    return by_peft(OFTConfig(r=0, oft_block_size=8, target_modules=[FF]))


@row(
    "peft folder, OFT of a convolution", "OFT on the inputs", "base svd", "1x1: as of linear layers"
)
def peft_oft_of_a_convolution() -> Made:
    return by_peft(OFTConfig(r=0, oft_block_size=8, target_modules=[PROJ]))


@row("peft folder, IA3", "IA3", "base svd", "factors of inputs of feed-forward layers")
def peft_ia3() -> Made:
    return by_peft(IA3Config(target_modules=[K, FF], feedforward_modules=[FF]))
