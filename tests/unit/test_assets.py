"""The shipped nets are whole, and within looser bounds than ``assets_check`` asks for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPModel, CLIPTextConfig, CLIPTokenizer

from sdlora.runtime.progress import Progress
from sdlora.world import examples
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.face import FaceEmbedder
from sdlora.world.portraits import HELD_OUT_SEEDS, caption, random_scene
from sdlora.world.training import assets_check as check
from sdlora.world.training import attribute_classifier as attributes_training
from sdlora.world.training import clip_model as clip
from sdlora.world.training import face_embedder as face_training
from sdlora.world.training.many_portraits import draw_many, to_tensor
from sdlora.world.training.vae import latents_std, reconstruction_psnr

SEEDS = list(HELD_OUT_SEEDS[50_000:50_100])


@pytest.fixture(scope="module")
def assets(repository: Path) -> Path:
    return repository / "sdlora" / "assets"


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return to_tensor(draw_many(SEEDS, num_processes=1))


@pytest.mark.parametrize(
    "name",
    [
        "ddpm/model_index.json",
        "ddpm/scheduler/scheduler_config.json",
        "ddpm/unet/config.json",
        "tiny-sd/model_index.json",
        "tiny-sd/scheduler/scheduler_config.json",
        "tiny-sd/text_encoder/config.json",
        "tiny-sd/tokenizer/merges.txt",
        "tiny-sd/tokenizer/vocab.json",
        "tiny-sd/unet/config.json",
        "tiny-sd/vae/config.json",
        "tiny-sd/vae/diffusion_pytorch_model.safetensors",
        "tiny-flow/model_index.json",
        "tiny-flow/scheduler/scheduler_config.json",
        "tiny-flow/text_encoder/model.safetensors",
        "tiny-flow/tokenizer/chat_template.jinja",
        "tiny-flow/tokenizer/tokenizer.json",
        "tiny-flow/transformer/diffusion_pytorch_model.safetensors",
        "tiny-flow/vae/diffusion_pytorch_model.safetensors",
        "tiny-clip/model.safetensors",
        "tiny-face/model.safetensors",
        "tiny-attributes/model.safetensors",
        "README.md",
    ],
)
def test_file_is_shipped(assets: Path, name: str) -> None:
    assert (assets / name).stat().st_size > 0


def test_assets_are_small(assets: Path) -> None:
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    assert size(assets) <= 56 * 2**20
    assert size(assets / "tiny-flow") <= 20 * 2**20


def test_text_encoder_knows_the_tokenizer(assets: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(assets / "tiny-sd" / "tokenizer")
    config = CLIPTextConfig.from_pretrained(assets / "tiny-sd" / "text_encoder")

    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.eos_token_id


@torch.no_grad()
def test_autoencoder_reconstructs_unseen_drawings(assets: Path, pictures: torch.Tensor) -> None:
    vae = AutoencoderKL.from_pretrained(assets / "tiny-sd" / "vae")

    assert reconstruction_psnr(vae, pictures[:24]) >= 29
    assert latents_std(vae, pictures[:24]) * vae.config.scaling_factor == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("base", check.BASES, ids=lambda base: base.folder)
def test_base_follows_unseen_prompts(assets: Path, base: check.Base) -> None:
    quick = dataclasses.replace(base, num_steps=14)
    prompts = [caption(random_scene(seed), seed) for seed in HELD_OUT_SEEDS[30_000:30_012]]
    with Progress() as progress:
        drawn = check.draw_prompts(prompts, quick, progress)

    classifier = AttributeClassifier.from_pretrained(assets / "tiny-attributes")
    assert check.prompts_followed(classifier, drawn, prompts)["overall"] >= 0.9


def test_classifier_reads_unseen_drawings(assets: Path, pictures: torch.Tensor) -> None:
    net = AttributeClassifier.from_pretrained(assets / "tiny-attributes")

    for name, share in attributes_training.accuracy(net, pictures, SEEDS).items():
        assert share >= 0.95, name


def test_scorer_finds_the_caption(assets: Path, pictures: torch.Tensor) -> None:
    net = CLIPModel.from_pretrained(assets / "tiny-clip")
    tokenizer = CLIPTokenizer.from_pretrained(assets / "tiny-clip")

    measured = clip.measure(net, tokenizer, pictures, SEEDS)

    assert net.dtype == torch.float32
    assert measured["retrieval_top1"] >= 0.85
    assert measured["altered_rejected"] >= 0.85


def test_embedder_tells_unseen_people_apart(assets: Path) -> None:
    people = [HELD_OUT_SEEDS[60_000 + index // 5] for index in range(len(SEEDS))]
    faces = draw_many(SEEDS, people, num_processes=1).reshape(-1, 5, 64, 64, 3)
    net = FaceEmbedder.from_pretrained(assets / "tiny-face")

    measured = face_training.measure(
        net, faces, face_training.faceless_pictures(HELD_OUT_SEEDS[60_000:60_100])
    )

    assert measured["equal_error_rate"] <= 0.08
    assert measured["face_accuracy"] >= 0.96


def test_examples_are_what_their_command_draws(tmp_path: Path, repository: Path) -> None:
    examples.write_examples(tmp_path)
    shipped = repository / "examples"
    texts = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.txt"))

    assert len(texts) == 24 + 12 + 1
    assert len(list(tmp_path.rglob("*.png"))) == 24 + 12 + 40 + 24
    for name in texts:
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name
    for name in sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")):
        drawn, kept = (_pixels(folder / name) for folder in (tmp_path, shipped))
        assert np.abs(drawn - kept).max() <= 8, name  # other versions of Pillow may round otherwise


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_table_goes_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{check.OPENING}old{check.CLOSING}\nbelow\n", encoding="utf-8")

    check.write_table([check.Row("CLIP", 0.931, 0.9), check.Row("PSNR", 27.5, 28.0)], readme)

    text = readme.read_text(encoding="utf-8")
    assert text.startswith("above")
    assert text.endswith("below\n")
    assert "| CLIP | 93.1 % | >= 90.0 % |" in text
    assert "old" not in text


def test_row_knows_whether_its_bound_is_kept() -> None:
    assert check.Row("error", 0.04, 0.05, at_most=True).is_kept
    assert not check.Row("error", 0.06, 0.05, at_most=True).is_kept
    assert not check.Row("share", 0.91, 0.92).is_kept


def test_prompts_followed_counts_named_attributes_only() -> None:
    class Always(AttributeClassifier):
        def predict(self, pixels: torch.Tensor) -> list[dict[str, str]]:
            answer = {"kind": "man", "hair": "red", "glasses": "none", "hat": "blue"}
            return [{**answer, "shirt": "red", "background": "grey"} for _ in pixels]

    shares = check.prompts_followed(
        Always(), torch.zeros(2, 3, 64, 64), ["a man with red hair", "a woman, blue hat, glasses"]
    )

    assert shares == {"overall": 3 / 5, "kind": 0.5, "hair": 1.0, "hat": 1.0, "glasses": 0.0}
