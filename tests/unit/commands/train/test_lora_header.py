"""What a header says of the base, the words and the time."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdlora.adapters.spec import LoraSpec
from sdlora.cli.command_line import register_schemas, to_typed
from sdlora.commands.train.lora_header import (
    adapter_facts,
    base_names,
    hub_id,
    tag_frequency,
    trigger_phrase,
)
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF


def config(*given: str) -> TrainConfig:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_typed(compose("train", ["run_dir=here", *given]), TrainConfig)


@pytest.mark.parametrize(
    ("family", "width", "prediction", "names"),
    [  # as kohya's trainer and ModelSpec's list of architectures have them
        ("sd", 768, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 64, "epsilon", ("sd_v1", "stable-diffusion-v1/lora")),
        ("sd", 768, "v_prediction", ("sd_v1_v", "stable-diffusion-v1/lora")),
        ("sd", 1024, "epsilon", ("sd_v2", "stable-diffusion-v2-512/lora")),
        ("sd", 1024, "v_prediction", ("sd_v2_v", "stable-diffusion-v2-768-v/lora")),
        ("sdxl", 768, "epsilon", ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")),
        ("mine", 0, "epsilon", ("mine", "mine/lora")),
    ],
)
def test_names_of_the_base(
    family: str, width: int, prediction: str, names: tuple[str, str]
) -> None:
    assert base_names(family, width, prediction) == names


def test_tags_are_counted_once_a_caption() -> None:
    captions = ["hat, red hat, hat", "hat ,\nsea", "", "a man, smiling"]
    assert tag_frequency(captions, ",") == {
        "hat": 2, "red hat": 1, "sea": 1, "a man": 1, "smiling": 1,
    }  # fmt: skip
    assert list(tag_frequency(captions, ","))[0] == "hat"
    assert tag_frequency(["a; b, c"], ";") == {"a": 1, "b, c": 1}
    assert len(tag_frequency([f"tag {number}" for number in range(5000)], ",")) == 1000


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ((), None),
        (("evaluation.trigger_word=sks", "evaluation.class_word=man"), "sks"),
        (("data.captions.prefix='sks man, '",), "sks man"),
    ],
)
def test_trigger_phrase(given: tuple[str, ...], phrase: str | None) -> None:
    assert trigger_phrase(config(*given)) == phrase


def test_only_a_hub_id_is_told_as_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here", "folder").mkdir(parents=True)
    model = config().model
    ids = {
        "owner/name": "owner/name", "embedded:tiny-sd": None, "here/folder": None,
        str(tmp_path): None, "./there": None, "folder": None,
    }  # fmt: skip
    assert {path: hub_id(replace(model, path=path)) for path in ids} == ids


def test_an_adapter_in_a_few_words() -> None:
    plain = LoraSpec(r=4, alpha=2.5, dropout=0.0, targets=("to_q",))
    assert adapter_facts(plain) == "rank 4, alpha 2.5"
    assert adapter_facts(replace(plain, use_dora=True)) == "rank 4, alpha 2.5, DoRA"
    told = adapter_facts(replace(plain, init="pissa", use_rslora=True, rank_pattern={"to_q": 2}))
    assert told == (
        "rank 4, alpha 2.5, others by layer, started by pissa, so of twice the rank in the files, "
        "rsLoRA"
    )
