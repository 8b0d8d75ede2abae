"""A model that a run gives back is the one that was loaded, whatever the run did to it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdlora.assembly import adapters, base_model
from sdlora.commands.train.reuse import FAMILY, kept_base, restored_base
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family
from sdlora.models.memory import checkpoint_gradients, memory_and_speed
from sdlora.runtime.kept import Kept
from tests import composed

METHODS = {
    "plain": (),
    "pissa": ("lora.init=pissa",),
    "dora": ("lora=conv", "lora.use_dora=true", "lora.text_encoder.method=frozen"),
    "patterns": ("lora.rank_dropout=0.5", "lora.unet.targets=[to_q,conv1]"),
}


def train_config(base: Path, *overrides: str, family: str = "sd") -> TrainConfig:
    given = [f"model.path={base}", f"model.family={family}", *overrides]
    return composed.train_config(*given)


def load(config: TrainConfig) -> Family:
    return base_model.load(config.model, config.lora, config.trainer.precision, config.seed)


def facts(family: Family) -> dict[str, Any]:
    """Everything that training can change, but the weights."""
    plain = (int, float, bool, str, type(None))
    modules = {
        name: (type(module), {k: v for k, v in vars(module).items() if isinstance(v, plain)})
        for name, module in family.named_modules()
    }
    for _, values in modules.values():
        for switch in ("_hf_peft_config_loaded", "gradient_checkpointing"):
            values[switch] = values.get(switch, False)  # as the class has it
        values.pop("_gradient_checkpointing_func", None)  # called if the switch is on
    weights = {
        name: (weight.dtype, weight.device, weight.requires_grad, weight.is_contiguous())
        for name, weight in family.named_parameters()
    }
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in family.named_modules()
    }
    return {
        "modules": modules,
        "weights": weights,
        "hooks": hooks,
        "schedule": family.noise_schedule_config,
        "words": [len(tokenizer) for tokenizer in family.tokenizers],
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [*(("sd", method) for method in METHODS), ("sdxl", "pissa"), ("kolors", "dora")],
)
def test_what_a_run_did_is_undone(name: str, method: str, random_bases: dict[str, Path]) -> None:
    config = train_config(random_bases[name], *METHODS[method], family=name)
    fresh, family = load(config), load(config)
    family.change_noise_schedule("v_prediction", True)
    family.max_chunks = 3
    adapters.add_adapters(family, adapters.lora_specs(config.lora, name), config.seed)
    memory_and_speed(config.trainer, torch.device("cpu"), family)
    checkpoint_gradients(family)
    family.train()
    assert facts(family) != facts(fresh)

    given_back = restored_base(family)
    found, expected = facts(given_back), facts(fresh)
    for what in expected:
        assert found[what] == expected[what], what
    weights = fresh.state_dict()
    assert given_back.state_dict().keys() == weights.keys()
    assert all(torch.equal(weights[key], w) for key, w in given_back.state_dict().items())


def test_a_base_is_given_out_for_its_own_config_only(random_base: Path) -> None:
    config = train_config(random_base)
    kept = Kept()
    base = kept_base(config, kept)
    for other in (
        train_config(random_base, "lora.r=3", "seed=5"),
        train_config(random_base, "trainer.max_steps=1"),
    ):
        kept.put(FAMILY, key_of(config), base)
        assert kept_base(other, kept) is base
    for other in (
        train_config(random_base, "model.clip_skip=1"),
        train_config(random_base, "trainer.precision=bf16"),
        train_config(random_base, "lora=full"),
        train_config(random_base, "lora.new_word.name=zwk"),
    ):
        kept.put(FAMILY, key_of(config), base)
        assert kept_base(other, kept) is not base


def key_of(config: TrainConfig) -> object:
    """The key under which a run with this config looks for its base."""
    keys: list[object] = []

    class Asked(Kept):
        def take(self, kind: str, key: object, make: Any) -> Any:
            keys.append(key)

    kept_base(config, Asked())
    return keys[0]
