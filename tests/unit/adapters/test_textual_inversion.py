"""A new word: what it is to tokenizers, text encoders and training, and who reads its file."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdlora.adapters.learned_embedding import LearnedEmbedding, learned
from sdlora.adapters.strength import disabled
from sdlora.adapters.textual_inversion import (
    EmbeddingError,
    NewWord,
    add_new_word,
    file_name,
    load_embeddings,
    write_embeddings,
)
from sdlora.export.proof import ExportError
from sdlora.export.proof_of_words import prove_embeddings
from sdlora.models.description import PartNames
from sdlora.models.drawing import Drawing
from sdlora.models.family import Family
from sdlora.models.loading import load_family
from sdlora.models.sd import SD, StableDiffusion
from sdlora.models.sdxl import SDXL
from sdlora.models.source import ModelSource
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from tests.sampling import sampling_config
from tests.unit.tiny_training import batch, diffusion_module, trainer

WORD = NewWord("<zwk>", init="cat", num_vectors=2)


def taught(family: Family, word: NewWord = WORD) -> Family:
    """The family with a word whose vectors are no longer what they began as."""
    add_new_word(family.tokenizers, family.text_encoders, word)
    for number, embedding in enumerate(learned(*family.text_encoders.values())):
        draws = torch.Generator().manual_seed(number)
        embedding.new_rows.data += torch.randn(embedding.new_rows.shape, generator=draws)
    return family


def names_of(family: Family) -> Mapping[str, PartNames]:
    return (SDXL if len(family.text_encoders) > 1 else SD).trainable


def written(folder: Path, family: Family, metadata: Mapping[str, str] | None = None) -> list[Path]:
    names = names_of(family)
    told = dict(metadata or {})
    return write_embeddings(folder, parts=family.parts, names=names, word=WORD.name, metadata=told)


@pytest.fixture
def xl(random_xl: Path) -> Family:
    return load_family(ModelSource(path=str(random_xl), family="sdxl"), 0)


def encoded(family: Family, *texts: str) -> torch.Tensor:
    return family.encode_prompts(family.tokenize(texts).ids)


def test_only_the_new_rows_have_a_gradient() -> None:
    vocabulary = nn.Embedding(3, 2).requires_grad_(False)
    embedding = LearnedEmbedding(vocabulary, torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
    found = embedding(torch.tensor([[2, 4, 3, 4]]))
    assert torch.equal(found[0, 0], vocabulary.weight[2])
    assert found[0, 1:].tolist() == [[7.0, 8.0], [5.0, 6.0], [7.0, 8.0]]
    found.sum().backward()
    assert embedding.new_rows.grad is not None
    assert embedding.new_rows.grad.tolist() == [[1.0, 1.0], [2.0, 2.0]]  # how often each stands
    assert vocabulary.weight.grad is None


def test_strength_goes_from_what_it_began_as_to_what_it_became() -> None:
    embedding = LearnedEmbedding(nn.Embedding(3, 1), torch.tensor([[2.0]]))
    embedding.new_rows.data += 4.0
    values = {}
    for strength in (0.0, 0.25, 1.0, 2.0):
        embedding.strength = strength
        values[strength] = embedding(torch.tensor([3])).item()
    assert values == {0.0: 2.0, 0.25: 3.0, 1.0: 6.0, 2.0: 10.0}


def test_a_16_bit_encoder_keeps_its_dtype_and_the_rows_float32() -> None:
    embedding = LearnedEmbedding(nn.Embedding(3, 2).bfloat16(), torch.ones(1, 2).bfloat16())
    assert embedding(torch.tensor([0, 3])).dtype == torch.bfloat16
    assert embedding.new_rows.dtype == torch.float32


def test_a_word_stands_for_all_its_vectors_and_for_whole_words_only(family) -> None:
    known = len(family.tokenizers[0])
    taught(family, NewWord("zwk", "cat", 2))
    start, *ids = family.tokenize(["a zwk, ZWK zwkx"]).ids[0].tolist()
    letters = [family.tokenizers[0].convert_tokens_to_ids(x) for x in ("a</w>", ",</w>")]
    assert ids[:6] == [letters[0], known, known + 1, letters[1], known, known + 1]
    assert known not in ids[6:]
    assert start == family.tokenizers[0].bos_token_id


def test_it_begins_as_the_words_it_is_said_to_be_like(family: StableDiffusion) -> None:
    expected = encoded(family, "a c a t on")
    add_new_word(family.tokenizers, family.text_encoders, NewWord("<zwk>", "c a t", 3))
    assert torch.equal(encoded(family, "a <zwk> on"), expected)


def test_the_pooled_embedding_is_read_at_the_texts_end(xl: Family) -> None:
    """Old configs have no real end: the largest id would be it, which the new word now has."""
    for encoder in xl.text_encoders.values():
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = 2
    expected = encoded(xl, "a c on")
    add_new_word(xl.tokenizers, xl.text_encoders, NewWord("<zwk>", "c", 1))
    assert torch.equal(encoded(xl, "a <zwk> on"), expected)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (NewWord("a", "c", 1), "lora.new_word.name=a: the tokenizer has it already"),
        (NewWord("<zwk>", " ", 1), "lora.new_word.init=' ': names no word"),
    ],
)
def test_a_word_that_cannot_be_is_refused(family, word: NewWord, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        add_new_word(family.tokenizers, family.text_encoders, word)


def test_without_its_adapter_the_model_knows_the_first_meaning(family: StableDiffusion) -> None:
    bare = copy.deepcopy(family)
    add_new_word(bare.tokenizers, bare.text_encoders, WORD)
    taught(family)
    with disabled(*family.parts.values()):
        assert torch.equal(encoded(family, "<zwk>"), encoded(bare, "<zwk>"))
    assert not torch.equal(encoded(family, "<zwk>"), encoded(bare, "<zwk>"))


def test_lora_scale_zero_draws_the_first_meaning(family: StableDiffusion) -> None:
    bare = copy.deepcopy(family)
    add_new_word(bare.tokenizers, bare.text_encoders, WORD)
    taught(family)

    def drawn(model: Family, scale: float) -> bytes:
        (picture,) = generate(
            model.pipeline(), [Prompt("a <zwk>", 0)], sampling_config(guidance_scale=1.0), 32,
            lora_scale=scale,
            drawing=Drawing(
                encode=lambda texts: model.prompt_arguments(encoded(model, *texts)),
                dtype=torch.float32,
            ),
        )  # fmt: skip
        return picture.tobytes()

    assert drawn(family, 0.0) == drawn(bare, 1.0) != drawn(family, 1.0)


def test_diffusers_reads_the_file_and_encodes_alike(
    family: StableDiffusion, random_base: Path, tmp_path: Path
) -> None:
    (path,) = written(tmp_path, taught(family), {"note": "mine"})
    assert path == tmp_path / "embeddings" / "zwk.safetensors"
    pipeline = load_family(ModelSource(path=str(random_base)), 0).pipeline()
    pipeline.load_textual_inversion(str(path), token=WORD.name)
    theirs, _ = pipeline.encode_prompt(["a <zwk> here"], "cpu", 1, False)
    assert torch.equal(theirs, encoded(family, "a <zwk> here"))


def test_comfyui_finds_its_tensors(family: StableDiffusion, xl: Family, tmp_path: Path) -> None:
    """By the rule of its ``load_embed``: the encoder's key if it is there, else the first."""

    def load_embed(path: Path, embed_key: str) -> torch.Tensor:
        embed = load_file(path)
        return embed[embed_key] if embed_key in embed else next(iter(embed.values()))

    for name, model in (("one", taught(family)), ("two", taught(xl))):
        (path,) = written(tmp_path / name, model)
        found = list(learned(*model.text_encoders.values()))
        for key, embedding in zip(("clip_l", "clip_g"), found, strict=False):
            assert torch.equal(load_embed(path, key), embedding.new_rows)
    assert load_file(path).keys() == {"clip_l", "clip_g"}


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_an_export_is_proved(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    family = taught(request.getfixturevalue({"sd": "family", "sdxl": "xl"}[kind]))
    folder = request.getfixturevalue({"sd": "random_base", "sdxl": "random_xl"}[kind])

    def prove(path: Path) -> None:
        source = ModelSource(path=str(folder), family=kind)
        fresh = load_family(source, 0).pipeline
        names = names_of(family)
        ids = lambda t: family.tokenize(t).ids  # noqa: E731
        prove_embeddings(path, fresh, family.parts, names, WORD.name, ids)

    (path,) = written(tmp_path, family)
    prove(path)
    other = {key: value + 1e-3 for key, value in load_file(path).items()}
    save_file(other, path)
    with pytest.raises(ExportError, match="embeddings of <zwk> are not the same"):
        prove(path)


def test_embeddings_come_back_and_others_are_refused(
    family: StableDiffusion, tmp_path: Path
) -> None:
    (path,) = written(tmp_path, taught(family))
    (embedding,) = learned(family.text_encoder)
    kept = embedding.new_rows.detach().clone()
    embedding.new_rows.data.zero_()
    load_embeddings(path, family.parts, SD.trainable)
    assert torch.equal(embedding.new_rows, kept)
    save_file({"<zwk>": torch.zeros(3, 16)}, path)
    with pytest.raises(EmbeddingError, match=r"\[3, 16\].*text_encoder needs \[2, 16\]"):
        load_embeddings(path, family.parts, SD.trainable)


def test_training_moves_the_word_and_nothing_else(family: StableDiffusion, tmp_path: Path) -> None:
    add_new_word(family.tokenizers, family.text_encoders, WORD)
    before = copy.deepcopy(family.state_dict())
    known = family.tokenizers[0].convert_tokens_to_ids("<zwk>")
    module = diffusion_module(family, lr=1.0)
    assert list(module.state_dict()) == ["text_encoder.embeddings.token_embedding.new_rows"]

    class Captioned(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            made = batch(2 * index)
            made.token_ids[:, 5:7] = torch.tensor([known, known + 1])
            return made

    loader = torch.utils.data.DataLoader(Captioned(), batch_size=None)
    trainer(tmp_path, 2, logger=False).fit(module, loader)
    moved = {
        name for name, value in family.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"text_encoder.embeddings.token_embedding.new_rows"}


@pytest.mark.parametrize(
    ("name", "file"), [("<my-face>", "my-face"), ("a/../b", "a..b"), ("<>", "word")]
)
def test_a_word_becomes_a_safe_file_name(name: str, file: str) -> None:
    assert file_name(name) == file
