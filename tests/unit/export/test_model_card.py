"""The model card, read by the Hub's own reader."""

import ast
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from diffusers import DDIMScheduler, PNDMScheduler
from huggingface_hub import ModelCard
from PIL import Image

from sdlora.adapters.spec import LoraSpec
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scores import Scores
from sdlora.export.model_card import adapter_facts, hub_id, trigger_phrase, write_model_card
from tests.composed import train_config

PROMPTS = ('a man: "smiling"', "ein Hut \u2014 rot", "", "- a\n- list", "a fifth")


METADATA = {"ss_num_train_images": "5", "ss_steps": "7", "ss_total_batch_size": "2"}


def config(*given: str) -> TrainConfig:
    return train_config("export.name='my face'", *given)


def card(folder: Path, *overrides: str, **given: object) -> tuple[ModelCard, list[Path]]:
    arguments: dict = {
        "config": config(*overrides),
        "base": "owner/base",
        "metadata": METADATA,
        "specs": {"unet": LoraSpec(r=4, alpha=2.5, dropout=0.0, targets=("to_q",))},
        "samples": [(text, Image.new("RGB", (8, 8), (i, 0, 0))) for i, text in enumerate(PROMPTS)],
        "scores": {
            "base": Scores(4, {"x": 20.0}),
            "LoRA": Scores(4, {"x": 25.5, "faceless": None}),
        },
        **given,
    }
    files = write_model_card(folder, **arguments)
    return ModelCard.load(folder / "README.md"), files


@pytest.mark.parametrize(
    ("family", "tag"), [("sd", "stable-diffusion"), ("sdxl", "stable-diffusion-xl")]
)
def test_the_hub_reads_it(family: str, tag: str, tmp_path: Path) -> None:
    found, files = card(
        tmp_path,
        f"model.family={family}",
        "data.captions.prefix='sks man, '",
        "export.licence=apache-2.0",
    )
    data = found.data.to_dict()
    assert data["base_model"] == "owner/base"
    assert data["instance_prompt"] == "sks man"
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "diffusers"
    assert data["tags"] == [
        "text-to-image", "diffusers", "diffusers-training", "lora", tag,
        f"{tag}-diffusers", "template:sd-lora",
    ]  # fmt: skip
    assert [each["text"] for each in data["widget"]] == [text or " " for text in PROMPTS[:4]]
    urls = [each["output"]["url"] for each in data["widget"]]
    assert files == [tmp_path / "README.md", *(tmp_path / url for url in urls)]
    with Image.open(tmp_path / urls[1]) as image:
        assert image.getpixel((0, 0)) == (1, 0, 0)
    assert "| Base model | owner/base |" in found.text
    assert "| Adapted parts | unet (rank 4, alpha 2.5) |" in found.text
    assert "| Steps | 7 |" in found.text
    assert "| | base | LoRA |\n|---|---|---|\n| pictures | 4 | 4 |\n" in found.text
    assert "| x | 20.000 | 25.500 |" in found.text
    assert "faceless" not in found.text
    assert "`sks man`" in found.text
    assert "`my face.safetensors`" in found.text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    found, files = card(tmp_path, base=str(tmp_path / "photos"), samples=[], scores={})
    assert files == [tmp_path / "README.md"]
    assert not found.data.to_dict().keys() & {"base_model", "instance_prompt", "widget"}
    assert found.data.license == "unknown"  # a field to be filled in
    assert "## Scores" not in found.text
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "None" not in text
    assert str(tmp_path) not in text
    assert "| Base model | photos |" in text


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ((), None),
        (("evaluation.trigger_word=sks", "evaluation.class_word=man"), "sks"),
        (("data.captions.prefix='sks man, '",), "sks man"),
    ],
)
def test_trigger_phrase(given: tuple[str, ...], phrase: str | None) -> None:
    made = config(*given)
    assert trigger_phrase(made.evaluation, made.data) == phrase


def test_only_a_hub_id_is_told_as_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here", "folder").mkdir(parents=True)
    ids = {
        "owner/name": "owner/name", "embedded:tiny-sd": None, "here/folder": None,
        str(tmp_path): None, "./there": None, "folder": None,
    }  # fmt: skip
    assert {path: hub_id(path) for path in ids} == ids


def test_an_adapter_in_a_few_words() -> None:
    plain = LoraSpec(r=4, alpha=2.5, dropout=0.0, targets=("to_q",))
    assert adapter_facts(plain) == "rank 4, alpha 2.5"
    assert adapter_facts(replace(plain, use_dora=True)) == "rank 4, alpha 2.5, DoRA"
    told = adapter_facts(replace(plain, init="pissa", use_rslora=True, rank_pattern={"to_q": 2}))
    assert told == (
        "rank 4, alpha 2.5, others by layer, initialised by pissa, so twice the rank in the files, "
        "rsLoRA"
    )


def test_its_code_has_the_noise_schedule_of_the_training(tmp_path: Path) -> None:
    usual = card(tmp_path / "usual")[0].text
    assert "DDIMScheduler" not in usual
    told = {"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}
    text = card(tmp_path / "v", metadata=METADATA | told)[0].text
    assert "from diffusers import AutoPipelineForText2Image, DDIMScheduler\n" in text
    start = text.index("pipeline.scheduler = ")
    code = text[start : text.index("pipeline.load_lora_weights")]
    pipeline = SimpleNamespace(scheduler=PNDMScheduler(skip_prk_steps=True))
    exec(code, {"pipeline": pipeline, "DDIMScheduler": DDIMScheduler})
    made = pipeline.scheduler.config
    assert made.prediction_type == "v_prediction"
    assert made.rescale_betas_zero_snr
    assert made.timestep_spacing == "trailing"


WORD = 'x"); import os; os.system("touch `ran`") # </td><script>'


def test_a_strangers_words_are_text_in_its_code_and_in_its_markdown(tmp_path: Path) -> None:
    told = config("export.licence=mit")
    told.evaluation.trigger_word = WORD
    told.export.licence = "a | b\n<b>c</b>"
    found, _ = card(tmp_path, config=told, base='a/b")\nimport os')
    code = found.text[found.text.index("```python") + 9 :]
    tree = ast.parse(code[: code.index("```")])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call.args[0].value for call in calls if call.args] == [  # type: ignore[attr-defined]
        'a/b")\nimport os',
        "FOLDER_OR_HUB_ID",
        WORD,
    ]
    assert len([node for node in ast.walk(tree) if isinstance(node, ast.Import)]) == 0
    assert f"Use `` {WORD} `` in the prompt." in found.text
    assert "| Licence | a \\| b &lt;b&gt;c&lt;/b&gt; |" in found.text
