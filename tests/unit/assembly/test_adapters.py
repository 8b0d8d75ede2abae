"""Adapters that a config asks for: refused before a weight is read, or begun from a file."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdlora.adapters.file_writing import write_diffusers, write_kohya, write_peft
from sdlora.adapters.folding import folded_state
from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.assembly import adapters, base_model
from sdlora.assembly.adapters import check_adapters
from sdlora.assembly.hashes import init_hashes
from sdlora.assembly.init_from import start_from_file
from sdlora.cli.arguments import opened_options
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family
from sdlora.models.sd import SD
from tests.composed import train_config

Config = Callable[..., TrainConfig]


@pytest.fixture
def config(random_base: Path) -> Config:
    def make(*overrides: str) -> TrainConfig:
        given = [f"model.path={random_base}", *overrides]
        return train_config(*opened_options(given, TrainConfig))

    return make


def checked(config: TrainConfig) -> None:
    check_adapters(config.model, config.lora)


def adapted(config: TrainConfig) -> Family:
    """The base with its adapters, as a run puts them on."""
    family = base_model.load(config.model, config.lora, "fp32", config.seed)
    specs = adapters.lora_specs(config.lora, config.model.family)
    adapters.add_adapters(family, specs, config.seed)
    return family


@pytest.fixture(scope="module")
def files(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One LoRA of UNet and text encoder in each layout: other targets, ranks and alphas."""
    from sdlora.models.loading import load_family
    from sdlora.models.source import ModelSource

    family = load_family(ModelSource(path=str(random_base)), seed=0)
    pattern = {"mid_block": 2}
    add_lora(
        family.parts["unet"],
        LoraSpec(5, 2.5, 0.0, ("to_q", "ff.net.2"), rank_pattern=pattern, alpha_pattern=pattern),
        seed=1,
    )
    add_lora(family.parts["text_encoder"], LoraSpec(3, 6.0, 0.0, ("q_proj",)), seed=2)
    for part in family.parts.values():
        for parameter in lora_parameters(part).values():
            parameter.data = torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("files")
    for part, module in family.parts.items():
        write_peft(folder / "peft" / part, module)
    return {
        "diffusers": write_diffusers(
            folder / "d.safetensors", parts=family.parts, names=SD.trainable, metadata={}
        ),
        "kohya": write_kohya(
            folder / "k.safetensors", parts=family.parts, names=SD.trainable, metadata={}
        ),
        "peft": folder / "peft",
    }


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
def test_the_message_gives_the_overrides_that_fit_a_file(
    layout: str, files: dict[str, Path], config: Config
) -> None:
    start = f"lora.init_from={files[layout]}"
    with pytest.raises(ConfigError) as caught:
        checked(config(start))
    text = str(caught.value)
    assert text.startswith(f"{start}: its adapter differs from the configured one:")
    assert "unet: the file lacks 24 layers, such as " in text
    assert "unet: the file has 4 layers more, such as " in text
    assert "rank 8 configured, rank 5 in the file" in text
    overrides = shlex.split(text.rpartition("To match the file, set: ")[2])
    assert "lora.unet.targets=[to_q,net.2]" in overrides
    assert "lora.text_encoder.targets=[q_proj]" in overrides

    fitting = config(start, *overrides)
    checked(fitting)
    family = adapted(fitting)
    start_from_file(fitting.lora.init_from, family)
    stored = load_file(files["diffusers"])
    for part, module in family.parts.items():
        inside = "" if part == "unet" else "text_model."
        for key, value in folded_state(module).items():  # alphas are other ones, the update is not
            torch.testing.assert_close(value, stored[f"{part}.{inside}{key}"], rtol=1e-6, atol=0)
    assert init_hashes(fitting.lora)


def test_parts_dora_and_rank_are_told_apart(
    files: dict[str, Path], config: Config, tmp_path: Path
) -> None:
    start = f"lora.init_from={files['kohya']}"
    with pytest.raises(
        ConfigError, match=r"(?s)text_encoder: in the file, but .*set: lora.text_enc"
    ):
        checked(config(start, "lora.text_encoder.method=frozen"))
    whole = load_file(files["kohya"])
    save_file({k: v for k, v in whole.items() if "lora_unet" in k}, tmp_path / "u.safetensors")
    unet_alone = f"lora.init_from={tmp_path / 'u.safetensors'}"
    with pytest.raises(
        ConfigError, match=r"(?s)text_encoder: not in the file.*encoder.method=frozen"
    ):
        checked(config(unet_alone))
    same = ("lora.unet.targets=[to_q,ff.net.2]", "lora.unet.rank_pattern={mid_block:2}")
    frozen = (unet_alone, *same, "lora.text_encoder.method=frozen", "lora.r=5")
    checked(config(*frozen, "lora.alpha=3"))
    with pytest.raises(ConfigError, match=r"the file's is no DoRA\n.* lora.use_dora=false$"):
        checked(config(*frozen, "lora.use_dora=true"))
    with pytest.raises(ConfigError, match=r"rank 4 configured, rank 5 in the file\n.*unet.r=5"):
        checked(config(*frozen[:-1], "lora.r=4"))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("loha", ("lora.type=loha", "lora.r=3")),
        ("lokr", ("lora.type=lokr", "lora.r=1", "lora.decompose_factor=4")),
        ("oft", ("lora.type=oft", "lora.oft_block_size=8")),
    ],
)
def test_the_message_gives_the_overrides_that_fit_a_file_of_another_type(
    name: str, overrides: tuple[str, ...], config: Config, tmp_path: Path
) -> None:
    written = adapted(config(*overrides, "lora.unet.targets=[to_q]", "lora.alpha=5"))
    for part in written.parts.values():
        for parameter in lora_parameters(part).values():
            parameter.data = torch.randn_like(parameter)
    file = write_kohya(
        tmp_path / "k.safetensors", parts=written.parts, names=SD.trainable, metadata={}
    )
    start = f"lora.init_from={file}"
    for others in ((), (overrides[0],)):  # of another type, and of other sizes
        with pytest.raises(ConfigError) as caught:
            checked(config(start, *others, "lora.oft_block_size=4"))
        text = str(caught.value)
        assert ("the file's is of the type" in text) == (not others)
        fitting = shlex.split(text.rpartition("To match the file, set: ")[2])
        checked(config(start, *others, *fitting))
    again = config(start, *overrides[:1], *fitting)
    family = adapted(again)
    start_from_file(again.lora.init_from, family)
    for part, module in family.parts.items():
        if lora_parameters(module):
            expected = folded_state(written.parts[part])
            for key, value in folded_state(module).items():
                torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)


def test_a_file_that_cannot_be_read_is_named(
    files: dict[str, Path], config: Config, tmp_path: Path
) -> None:
    def message(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            checked(config(f"lora.init_from={path}"))
        assert str(caught.value).startswith(f"lora.init_from={path}: ")
        return str(caught.value)

    assert "no such file; name a .safetensors file" in message(tmp_path / "none.safetensors")
    (tmp_path / "a.pt").write_bytes(b"PK")
    assert "a pickle, which can run any code" in message(tmp_path / "a.pt")
    tensors = load_file(files["kohya"])
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    save_file({**tensors, key: tensors[key] * torch.nan}, tmp_path / "nan.safetensors")
    assert "NaN or infinity in 1 tensors" in message(tmp_path / "nan.safetensors")
    wide = torch.zeros(99, tensors[key].shape[1])
    save_file({**tensors, key: wide}, tmp_path / "wide.safetensors")
    told = message(tmp_path / "wide.safetensors")
    assert f"shape {list(wide.shape)}, the layer needs" in told
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    halves = {f"{stem}.hada_w{n}_{m}": torch.ones(2, 2) for n in "12" for m in "ab"}
    cores = {f"{stem}.hada_t{n}": torch.ones(2, 2, 3, 3) for n in "12"}
    save_file(halves | cores, tmp_path / "loha.safetensors")
    told = message(tmp_path / "loha.safetensors")
    assert "holds LoHa with a core (CP), which no lora.type trains" in told
    assert f"sdlora lora convert {tmp_path / 'loha.safetensors'} plain.safetensors" in told


def test_the_hash_of_the_file_is_part_of_the_run(
    files: dict[str, Path], config: Config, tmp_path: Path
) -> None:
    assert init_hashes(config().lora) == {}
    path = tmp_path / "a.safetensors"
    path.write_bytes(files["kohya"].read_bytes())
    before = init_hashes(config(f"lora.init_from={path}").lora)
    path.write_bytes(files["diffusers"].read_bytes())
    after = init_hashes(config(f"lora.init_from={path}").lora)
    assert before.keys() == after.keys() == {"lora.init_from"}
    assert before != after
    assert set(init_hashes(config(f"lora.init_from={files['peft']}").lora)) == {
        "lora.init_from/text_encoder/adapter_model.safetensors",
        "lora.init_from/unet/adapter_model.safetensors",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.unet.targets=[to_qq]"], r"^lora.unet.targets=to_qq: no such layer .*mean to_q\?"),
        (["lora.unet.rank_pattern={atn1:4}"], "^lora.unet.rank_pattern=atn1: matches none of the"),
        (
            ["lora.text_encoder.alpha_pattern={fc1:4}"],
            "^lora.text_encoder.alpha_pattern=fc1: matches none of the 8 adapted layers; near",
        ),
        (
            ["lora.text_encoder.targets=[fc1,fc2]"],
            r"^lora.text_encoder.targets=\['fc1', 'fc2'\]: diffusers cannot load a LoRA of a",
        ),
        (["lora.init=pissa", "lora.r=99"], r"^lora.text_encoder.r=99: .* ranks for init=pissa"),
    ],
)
def test_what_no_layer_can_be_is_named(
    overrides: list[str], message: str, config: Config, random_base: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(config(*overrides))


def trains_text(config: TrainConfig) -> bool:
    return adapters.trains_text(config.lora, config.model.family)


def test_the_rank_of_a_part_brings_its_alpha(config: Config) -> None:
    def strengths(*overrides: str) -> dict[str, float]:
        specs = adapters.lora_specs(config("lora.r=4", *overrides).lora, "sd")
        return {part: spec.alpha / spec.r for part, spec in specs.items()}

    assert strengths("lora.unet.r=16") == {"unet": 1, "text_encoder": 1}
    halved = strengths("lora.alpha=2", "lora.unet.r=16")
    assert halved == {"unet": 0.5, "text_encoder": 0.5}
    own = strengths("lora.unet.r=16", "lora.unet.alpha=4")
    assert own == {"unet": 0.25, "text_encoder": 1}


def test_one_of_two_text_encoders(config: Config, random_xl: Path) -> None:
    xl = ("model=sdxl", f"model.path={random_xl}", "lora.text_encoder.method=lora")
    both = adapters.lora_specs(config(*xl, "lora.text_encoder.r=2").lora, "sdxl")
    assert both["text_encoder"] == both["text_encoder_2"]
    assert both["text_encoder_2"].r == 2
    only = config(*xl, "lora.text_encoder.method=frozen", "lora.text_encoder_2.method=lora")
    checked(only)
    assert trains_text(only)
    assert set(adapters.lora_specs(only.lora, "sdxl")) == {"unet", "text_encoder_2"}
    other = config(
        *xl, "lora.text_encoder_2.targets=[fc1]", "lora.text_encoder_2.rank_pattern={fc1:3}"
    )
    specs = adapters.lora_specs(other.lora, "sdxl")
    assert specs["text_encoder_2"].targets == ("fc1",)
    assert specs["text_encoder_2"].rank_pattern == {"fc1": 3}
    assert not specs["text_encoder"].rank_pattern
    frozen = config(*xl, "lora.text_encoder.method=frozen")
    assert not trains_text(frozen)
    assert not trains_text(config("lora.text_encoder.method=frozen"))


def test_a_block_size_of_oft_fits_all_parts_at_once(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone the text encoder would take blocks of 24, of which the UNet knows nothing."""
    widths = {"unet": 320, "text_encoder": 768}
    parts = {name: nn.Sequential(nn.Linear(width, 4)) for name, width in widths.items()}
    monkeypatch.setattr(adapters, "empty_part", lambda part, source: parts[part])
    targets = ("lora.unet.targets=[0]", "lora.text_encoder.targets=[0]")
    asked = (*targets, "lora.type=oft", "lora.oft_block_size=48")
    with pytest.raises(ConfigError, match=r"text_encoder.0 has 768|unet.0 has 320") as refused:
        checked(config(*asked))
    assert str(refused.value).endswith("set lora.oft_block_size=32")
