"""A distilled checkpoint draws with the adapter of the base that trains."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.strength import disabled
from sdlora.assembly import base_model
from sdlora.assembly.family_limits import check_family_limits
from sdlora.commands.train.model_checks import check_without_weights
from sdlora.commands.train.step_estimate import step_memory
from sdlora.config.rules import ConfigError
from sdlora.evaluation.evaluator import Evaluator
from sdlora.models import drawing_base
from sdlora.models.drawing_base import drawing_weights, exchange_weights
from sdlora.models.family import Family
from sdlora.models.source import ModelError
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt
from tests.flow_models import write_random_klein, write_random_z_image
from tests.sampling import sampling_config
from tests.unit.commands.train.test_reuse import train_config
from tests.unit.commands.train.test_step_estimate import pictures, trainer

NAMES = ("z_image", "flux2_klein")
WRITE: dict[str, Callable[..., Path]] = {
    "z_image": write_random_z_image,
    "flux2_klein": write_random_klein,
}


@pytest.fixture(scope="session")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints with other weights, another shift, and nothing but what they draw with."""
    found = {}
    for name in NAMES:
        folder = WRITE[name](tmp_path_factory.mktemp("few-steps") / name, seed=1)
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.rmtree(folder / part)
        change(folder / "scheduler/scheduler_config.json", shift=6.0, use_dynamic_shifting=False)
        change(folder / "model_index.json", is_distilled=True)
        found[name] = folder
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def config_of(name: str, base: Path, *overrides: str) -> Any:
    given = (f"model={name}", "trainer.precision=fp32", *overrides)
    return train_config(base, *given, family=name)


def with_adapter(family: Family) -> Family:
    add_lora(family.denoiser, LoraSpec(r=2, alpha=8.0, dropout=0.0, targets=("to_q",)), seed=0)
    draws = torch.Generator().manual_seed(5)
    for weight in lora_parameters(family.denoiser).values():
        weight.data = 0.3 * torch.randn(weight.shape, generator=draws)
    return family


def drawn(family: Family) -> list[bytes]:
    """Pictures with the adapter, and without."""
    evaluator = Evaluator(
        family=family,
        sampling=sampling_config(sampler="euler", num_steps=2, guidance_scale=1.0),
        prompts=[Prompt("a man", 3)],
        resolution=64,
        precision=torch.float32,
        scorer=SimpleNamespace(score=lambda *_: None),  # type: ignore[arg-type]
        progress=Progress(enabled=False),
    )
    found: list[Image.Image] = [*evaluator.draw().images, *evaluator.draw_base().images]
    return [image.tobytes() for image in found]


def state(family: Family) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in family.denoiser.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_with_the_adapter_and_the_base_is_as_it_was(
    name: str, random_bases: dict[str, Path], few_steps: dict[str, Path]
) -> None:
    """The pictures of a run are those that ``evaluate.py`` draws; the levels are its own, too."""
    config = config_of(name, random_bases[name], f"model.draw_with={few_steps[name]}")
    check_without_weights(config)
    family = with_adapter(base_model.load(config.model, config.lora, "fp32", 0))
    own = drawn(family)
    family.drawing_base = base_model.load_drawing_base(config.model, "fp32", 0)
    before, trained = state(family), list(lora_parameters(family.denoiser).values())
    found = drawn(family)
    expected = drawn(with_adapter(base_model.load_to_draw(config.model, "fp32", 0)))
    assert found == expected
    assert len({*own, *found}) == 4
    after = state(family)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    still = lora_parameters(family.denoiser).values()
    assert all(one is other for one, other in zip(still, trained, strict=True))
    with drawing_weights(family), disabled(family.denoiser):
        assert family.pipeline().scheduler.config.shift == 6.0
        if name == "flux2_klein":
            assert family.pipeline().config.is_distilled
    assert family.noise_schedule_config["shift"] == 3.0


def test_weights_that_do_not_fit_leave_all_in_place(
    random_z_image: Path, few_steps: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("z_image", random_z_image, f"model.draw_with={few_steps['z_image']}")
    family = with_adapter(base_model.load(config.model, config.lora, "fp32", 0))
    family.drawing_base = base_model.load_drawing_base(config.model, "fp32", 0)
    before, moves = state(family), iter(range(10**6))

    def moved(weight: Tensor, device: torch.device) -> Tensor:
        if next(moves) == 21:
            raise torch.OutOfMemoryError("no room for this one")
        return weight

    monkeypatch.setattr(drawing_base, "_moved", moved)
    with pytest.raises(torch.OutOfMemoryError), drawing_weights(family):
        pytest.fail("they are not there")
    assert all(torch.equal(value, before[key]) for key, value in state(family).items())


def test_each_network_stays_on_its_device(
    random_z_image: Path, few_steps: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's ``meta`` device as the GPU; what comes from there has no content."""
    config = config_of("z_image", random_z_image, f"model.draw_with={few_steps['z_image']}")
    adapted = with_adapter(base_model.load(config.model, config.lora, "fp32", 0)).denoiser
    other = base_model.load_drawing_base(config.model, "fp32", 0)
    assert other is not None
    adapted.to("meta")
    usual = drawing_base._moved

    def moved(weight: Tensor, device: torch.device) -> Tensor:
        gone = weight.is_meta and device.type == "cpu"
        return usual(torch.zeros(weight.shape) if gone else weight, device)

    monkeypatch.setattr(drawing_base, "_moved", moved)
    for _ in range(2):
        exchange_weights(adapted, other.denoiser)
        assert all(tensor.is_meta for tensor in adapted.state_dict().values())
        assert not any(tensor.is_meta for tensor in other.denoiser.state_dict().values())


def garbage(folder: Path, target: Path) -> Path:
    """A model whose weights cannot be read."""
    shutil.copytree(folder, target)
    for file in target.rglob("*.safetensors"):
        file.write_bytes(b"no weights")
    return target


def test_what_cannot_draw_is_refused_before_a_weight_is_read(
    random_bases: dict[str, Path], few_steps: dict[str, Path], tmp_path: Path
) -> None:
    base = garbage(random_bases["z_image"], tmp_path / "base")
    other = garbage(few_steps["z_image"], tmp_path / "other")

    def message(folder: object) -> str:
        config = config_of("z_image", base, f"model.draw_with={folder}")
        with pytest.raises(ModelError) as error:
            check_without_weights(config)
        return str(error.value)

    assert message(few_steps["flux2_klein"]).startswith(
        f"model.draw_with={few_steps['flux2_klein']}: its transformer is a Flux2Transformer2DModel"
    )
    assert message("nowhere").startswith("model.draw_with=nowhere: no such folder")
    change(other / "transformer/config.json", n_layers=3)
    differ = "15 weights of its transformer are not those of model.path="
    assert message(other).startswith(f"model.draw_with={other}: {differ}")
    (other / "transformer/diffusion_pytorch_model.safetensors").unlink()
    lacking = "transformer/diffusion_pytorch_model.safetensors is missing in"
    assert message(other) == f"model.draw_with={other}: {lacking} {other}; fetch it"
    (other / "scheduler/scheduler_config.json").unlink()
    shutil.copy(
        few_steps["z_image"] / "transformer/diffusion_pytorch_model.safetensors",
        other / "transformer",
    )
    shutil.copy(few_steps["z_image"] / "transformer/config.json", other / "transformer")
    assert message(other).startswith(f"model.draw_with={other}: scheduler/scheduler_config.json is")


@pytest.mark.parametrize(
    ("family", "override", "reason"),
    [
        ("sd", "model=tiny", "another base draws for transformers of flow matching; Stable Diff"),
        (
            "z_image",
            "lora=full",
            "draws with the adapter of the trained base, and lora.transformer",
        ),
        ("z_image", "model.draw_with={base}", "is the base itself, which draws anyway; leave it"),
    ],
)
def test_what_has_no_use_for_it_is_refused(
    family: str, override: str, reason: str, random_bases: dict[str, Path]
) -> None:
    base = random_bases[family]
    own = () if family == "sd" else (f"model={family}",)
    given = (*own, "model.draw_with=owner/few", override.format(base=base))
    config = train_config(base, *given, family=family)
    with pytest.raises(ConfigError, match=r"^model.draw_with=.*: ") as error:
        check_family_limits(config)
    assert reason in str(error.value)


def test_steps_and_guidance_are_those_of_what_draws(random_bases: dict[str, Path]) -> None:
    def of(name: str, *given: str) -> tuple[int, float]:
        sampling = config_of(name, random_bases[name], *given).sampling
        return sampling.num_steps, sampling.guidance_scale

    few = "model.draw_with=owner/few"
    assert [of("z_image"), of("z_image", few)] == [(50, 5.0), (8, 1.0)]
    assert [of("flux2_klein"), of("flux2_klein", few)] == [(50, 4.0), (4, 1.0)]
    assert of("z_image", few, "sampling.num_steps=9") == (9, 1.0)


def test_it_waits_in_main_memory_which_is_counted_where_steps_use_it(
    random_bases: dict[str, Path], few_steps: dict[str, Path]
) -> None:
    base = random_bases["z_image"]
    plain = config_of("z_image", base)
    drawing = config_of("z_image", base, f"model.draw_with={few_steps['z_image']}")
    costs = [
        step_memory(config, pictures((64, 64)), trainer())[0].estimate(False).weights
        for config in (plain, drawing)
    ]
    other = base_model.load_drawing_base(drawing.model, "fp32", 0)
    assert other is not None
    assert costs[1] - costs[0] == sum(p.nbytes for p in other.denoiser.parameters())
