"""Families by name; one that a package adds is known everywhere by its description alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sdlora.adapters.file_writing import write_diffusers, write_kohya
from sdlora.adapters.formats import apply_lora, read_lora
from sdlora.adapters.lora import lora_state_dict
from sdlora.adapters.lora_file import from_layers
from sdlora.assembly import adapters, base_model, lightning_trainer
from sdlora.assembly.family_limits import check_family_limits
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.export.lora_files import family_of
from sdlora.models import families
from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.families import FAMILIES, description_of, part_names
from sdlora.models.kolors import KOLORS
from sdlora.models.sd import SD, StableDiffusion
from sdlora.models.sdxl import SDXL
from sdlora.models.source import ModelSource, resolve
from tests.composed import train_config


class Toy(StableDiffusion):
    """Stable Diffusion whose denoiser is called a DiT."""

    denoiser_name = "dit"

    def __init__(self, dit: Any, **parts: Any) -> None:
        super().__init__(unet=dit, **parts)

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        return self.denoiser(z_t, t, conditioning).sample.float()


TOY = FamilyDescription(
    name="toy",
    kind="Toy Diffusion",
    make=Toy,
    parts={
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "dit": UNet2DConditionModel,
    },
    tokenizers={"tokenizer": CLIPTokenizer},
    trainable={
        "dit": PartNames(kohya=("lora_dit_",)),
        "text_encoder": PartNames(kohya=("lora_clip_",), is_clip=True),
    },
    misfit=lambda parts: None,
    has_denoiser=lambda config: True,
    pipeline="ToyPipeline",
    hub_tag="toy-diffusion",
    is_clip=True,
)


class Entry:
    name = "toy"

    def __init__(self, added: object) -> None:
        self.added = added

    def load(self) -> object:
        return self.added


@pytest.fixture
def toy(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of the toy family, which a package adds."""
    monkeypatch.setattr(families, "entry_points", lambda group: [Entry(TOY)])
    folder = tmp_path / "toy"
    shutil.copytree(random_base, folder)
    (folder / "unet").rename(folder / "dit")
    return folder


def config_of(base: Path, *given: str) -> TrainConfig:
    told = ["model.family=toy", f"model.path={base}", *given]
    return train_config(*told)


ADAPTED = ("lora.dit.method=lora", "lora.dit.targets=[to_q,to_v]")


def test_every_family_is_known_by_its_own_name() -> None:
    assert {name: each.name for name, each in FAMILIES.items()} == {
        name: name for name in ("sd", "sdxl", "kolors", "z_image", "flux2_klein", "ddpm")
    }
    assert all(each.denoiser in each.parts for each in FAMILIES.values())
    assert all(each.trainable.keys() <= each.parts.keys() for each in FAMILIES.values())


def test_an_unknown_family_is_an_error_everywhere(random_base: Path) -> None:
    message = "^model.family=sd3: unknown; did you mean sd.*ddpm, .*kolors, sd, sdxl, z_image$"
    source = ModelSource(str(random_base), family="sd3")
    with pytest.raises(ConfigError, match=message):
        description_of("sd3")
    with pytest.raises(ConfigError, match=message):
        noise_schedule_config(source)
    config = config_of(random_base, "model.family=sd3")
    with pytest.raises(ConfigError, match=message):
        base_model.model_source(config.model)
    with pytest.raises(ConfigError, match=message):
        adapters.lora_specs(config.lora, "sd3")
    with pytest.raises(ConfigError, match=message):
        check_family_limits(config)


def test_a_package_that_adds_no_description_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "entry_points", lambda group: [Entry(Toy)])
    with pytest.raises(ConfigError, match=r"^model.family=toy: .* not a FamilyDescription; update"):
        description_of("toy")


@pytest.mark.parametrize(
    ("version", "layers", "family"),
    [
        ("", ["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"], SD),
        ("", ["unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q"], SDXL),
        ("", ["text_encoder_2.encoder.layers.0.self_attn.q_proj"], SDXL),
        ("sdxl_base_v1-0", ["unet.conv_in"], SDXL),
        ("sd_v1", ["unet.conv_in"], SD),
        ("kolors", ["unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q"], KOLORS),
    ],
)
def test_whose_lora_it_is(version: str, layers: list[str], family: FamilyDescription) -> None:
    (part, _, layer) = layers[0].partition(".")
    matrices = {"A": torch.zeros(2, 8), "B": torch.zeros(8, 2)}
    header = {"ss_base_model_version": version} if version else {}
    lora = from_layers("x", {part: {layer: matrices}}, header, "diffusers")
    assert family_of(lora) is family


def test_parts_of_two_families_that_are_called_alike_are_the_built_in_ones(toy: Path) -> None:
    names = part_names()
    assert list(names) == ["dit", "unet", "transformer", "text_encoder", "text_encoder_2"]
    assert names["text_encoder"] is SD.trainable["text_encoder"]


def test_the_parts_of_an_added_family_are_trained(toy: Path) -> None:
    config = config_of(toy, *ADAPTED, "lora.dit.r=2", "optim.unet_lr=0.5")
    check_family_limits(config)
    adapters.check_adapters(config.model, config.lora)
    family = base_model.load(config.model, config.lora, "fp32", config.seed)
    assert isinstance(family, Toy)
    assert list(family.parts) == ["dit", "text_encoder"]
    specs = adapters.lora_specs(config.lora, "toy")
    assert {part: spec.r for part, spec in specs.items()} == {"dit": 2, "text_encoder": 8}
    adapters.add_adapters(family, specs, config.seed)
    module = lightning_trainer.module(config, family, batches_per_epoch=4)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {each["name"]: each["initial_lr"] for each in groups}
    assert rates["dit"] == 0.5
    assert rates["text_encoder"] == config.optim.text_encoder_lr
    conditioning = family.encode_prompts(family.tokenize(["a cat"]).ids)
    family.denoise(torch.zeros(1, 4, 8, 8), torch.tensor([1]), conditioning).sum().backward()
    assert all(p.grad is not None for p in module.trained_parameters("dit").values())


def test_files_name_the_parts_as_the_family_does(toy: Path, tmp_path: Path) -> None:
    config = config_of(toy, *ADAPTED)
    family, fresh = (base_model.load(config.model, None, "fp32", 0) for _ in range(2))
    adapters.add_adapters(family, adapters.lora_specs(config.lora, "toy"), 0)
    header = {"ss_base_model_version": TOY.base_names(16, "epsilon")[0]}
    told: Any = {"parts": family.parts, "names": TOY.trainable, "metadata": header}
    kohya = load_file(write_kohya(tmp_path / "k.safetensors", **told))
    assert {key.split("_", 2)[1] for key in kohya} == {"dit", "clip"}
    lora = read_lora(write_diffusers(tmp_path / "d.safetensors", **told))
    assert family_of(lora) is TOY
    apply_lora(fresh.parts, lora)
    for part, module in family.parts.items():
        again = lora_state_dict(fresh.parts[part])
        assert all(torch.equal(again[k], value) for k, value in lora_state_dict(module).items())


def test_what_an_added_family_lacks_is_named_by_its_own_parts(toy: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^lora.dit.method=null: this part has no training method"
    ):
        check_family_limits(config_of(toy))
    with pytest.raises(ConfigError, match=r"^lora.dti: .* lora.dit\? Toy Diffusion"):
        check_family_limits(config_of(toy, *ADAPTED, "lora.dti.r=4"))
    with pytest.raises(ConfigError, match=r"^lora.dit.rr=4: .*mean lora.dit.r\?"):
        config_of(toy, *ADAPTED, "lora.dit.rr=4")
    with pytest.raises(ConfigError, match=r"^lora.use_dora=True: works on dit only; set"):
        check_family_limits(config_of(toy, *ADAPTED, "lora.use_dora=true"))


def test_a_folder_of_an_added_family_is_whole(toy: Path) -> None:
    source = ModelSource(str(toy), family="toy")
    assert resolve(source) == toy
    (toy / "dit" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"dit/config.json is missing"):
        base_model.load(config_of(toy).model, None, "fp32", 0)


@pytest.mark.parametrize(
    ("family", "width", "prediction", "names"),
    [  # as kohya's trainer and ModelSpec's list of architectures have them
        ("sd", 768, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 64, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 768, "v_prediction", ("sd_v1_v", "stable-diffusion-v1/lora")),
        ("sd", 1024, "epsilon", ("sd_v2", "stable-diffusion-v2-512/lora")),
        ("sd", 1024, "v_prediction", ("sd_v2_v", "stable-diffusion-v2-768-v/lora")),
        ("sdxl", 768, "epsilon", ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")),
        ("kolors", 0, "epsilon", ("kolors", "kolors/lora")),
    ],
)
def test_names_of_the_base(
    family: str, width: int, prediction: str, names: tuple[str, str]
) -> None:
    assert FAMILIES[family].base_names(width, prediction) == names
