"""Every option and experiment on the disk: it can be built on a tiny model of its family."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdlora.assembly import adapters, base_model, lightning_trainer
from sdlora.assembly.adapters import check_adapters
from sdlora.assembly.loss import check_objective
from sdlora.assembly.new_word import teach
from sdlora.cli.composition import to_typed
from sdlora.config.train import TrainConfig
from sdlora.data.batches.dataset import Batch
from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.families import FAMILIES
from sdlora.models.family import Family
from sdlora.runtime.places import CONF
from sdlora.training.module import DiffusionModule
from sdlora.training.optimizers import CUDA_ONLY, PACKAGES
from tests.composed import composed_train
from tests.models import TINY_PIXELS

GROUPS = ("experiment", "lora", "objective", "optimizer", "scheduler")
OPTIONS = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]

Config = Callable[..., TrainConfig]
Built = tuple[Family, DiffusionModule]


@pytest.fixture
def config(random_bases: dict[str, Path]) -> Config:
    """A config whose base is the tiny one of its family, and which a CPU can run."""

    def make(*overrides: str) -> TrainConfig:
        given = ["data.root=pictures", *overrides]
        given += ["trainer.accelerator=cpu", "trainer.precision=fp32"]
        composed = composed_train(*given)
        if composed.model.family == "ddpm":  # has no base: its architecture is the config's
            composed.model.architecture = TINY_PIXELS
        else:
            composed.model.path = str(random_bases[composed.model.family])
            composed.model.variant = None
        return to_typed(composed, TrainConfig)

    return make


def built(config: TrainConfig) -> Built:
    """Model with adapters, and the module with its objective; as a run puts them together."""
    check_adapters(config.model, config.lora)
    is_taught = config.data.prior.mode == "teacher"
    schedule = noise_schedule_config(base_model.model_source(config.model))
    check_objective(config.objective, schedule, is_taught)
    family = base_model.load(config.model, config.lora, "fp32", config.seed)
    changed = config.objective.prediction_type, config.objective.zero_terminal_snr
    family.change_noise_schedule(*changed)
    specs = adapters.lora_specs(config.lora, config.model.family)
    adapters.add_adapters(family, specs, config.seed)
    teach(family, config.lora.new_word)
    return family, lightning_trainer.module(config, family, batches_per_epoch=4)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_can_be_built(path: Path, config: Config) -> None:
    """Adapters, objective, optimizer and learning rates, on the family's own layers."""
    group, name = path.parent.name, path.stem
    if group == "optimizer" and name in PACKAGES:
        pytest.importorskip(PACKAGES[name].replace("-", "_"))
    if group == "optimizer" and name in CUDA_ONLY and not torch.cuda.is_available():
        pytest.skip(f"{name} needs a GPU")
    told = config(f"{group}={name}")
    family, module = built(told)
    configured = module.configure_optimizers()
    rates = {each["name"]: each["lr"] for each in configured["optimizer"].param_groups}
    methods = {part: told.lora.part(part).method for part in family.parts}
    trained = {part for part, method in methods.items() if method != "frozen"}
    if told.lora.new_word.name is not None:
        trained |= {f"{part}_new_word" for part in family.text_encoders}
    assert rates.keys() == trained


MODEL = {"sd": "sd15"}
TRAINED = ("attention", "conv_time", "full")
STEPS = [
    *((family, lora) for family in ("sd", "sdxl") for lora in TRAINED),
    *(("kolors", f"{lora} lora.text_encoder.method=frozen") for lora in TRAINED),
    *(
        (family, lora)
        for family in ("z_image", "flux2_klein")
        for lora in ("attention", "attention_mlp", "all_linear", "full")
    ),
    ("ddpm", "full"),  # nothing else loads a LoRA of it
]


@pytest.mark.parametrize(("family", "lora"), STEPS)
def test_a_step_of_every_family(family: str, lora: str, config: Config) -> None:
    """Every trained weight gets a gradient, but for those that nothing reads.

    The last layer of SDXL's first text encoder is one: the UNet reads what comes before it.
    """
    assert {family for family, _ in STEPS} == FAMILIES.keys()
    model, module = built(config(f"model={MODEL.get(family, family)}", *f"lora={lora}".split()))
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.on_fit_start()
    draws = torch.Generator().manual_seed(0)
    side = 2 * model.resolution_step
    batch = Batch(
        sample_index=torch.arange(2),
        picture_index=torch.arange(2),
        token_ids=model.tokenize(["a cat", "a dog"]).ids,
        names=("0.png", "1.png"),
        weights=torch.ones(2),
        pixels=2 * torch.rand(2, 3, side, side, generator=draws) - 1,
        sizes=torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
    )
    loss = module.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    trained = module.all_trained_parameters()
    idle = {name for name, parameter in trained.items() if parameter.grad is None}
    assert all(name.startswith("text_encoder.encoder.layers.1.") for name in idle)
    assert len(idle) < len(trained) / 2
    assert family == "sdxl" or not idle
