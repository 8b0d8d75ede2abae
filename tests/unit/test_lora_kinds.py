"""The table of LoRA file kinds: each small file inspected, evaluated, merged and converted.

``tests/lora_kinds.py`` writes the files from their formats' descriptions and works out what each
must do; the table stands in ``docs/lora_files.md``, too.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdlora.adapters.arithmetic import Cut
from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.adapters.inspection import inspect_lora
from sdlora.adapters.layer_paths import dotted
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.plain_form import plain_form
from sdlora.adapters.spec import LoraError
from sdlora.export.lora_files import write_lora
from sdlora.export.merging import merged_pipeline
from tests.lora_kinds import ROWS, SGM, TE, UNET, Made
from tests.places import REPOSITORY
from tests.unit.adapters.tiny_models import (
    outputs,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_unet,
)

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-5}
"""float32 on both sides of weights of size 1."""

NEAR: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-4}
"""An SVD in float32 that keeps everything."""


def read(name: str, folder: Path) -> tuple[Made, LoraFile]:
    made = ROWS[name].make()
    lora = read_lora(made.file(folder), layers_per_block=1, skip_unknown=ROWS[name].skip)
    return made, lora


def wanted(made: Made) -> dict[str, nn.Module]:
    """The base with the weights that the format's formula gives."""
    parts: dict[str, nn.Module] = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    for part, values in (("unet", made.unet), ("text_encoder", made.text)):
        for name, value in values.items():
            parts[part].get_parameter(name).data.copy_(value)
    return parts


def drawn(parts: dict[str, nn.Module]) -> Tensor:
    return outputs(parts["unet"], parts["text_encoder"])


def base() -> dict[str, nn.Module]:
    return {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}


@pytest.mark.parametrize("name", ROWS)
def test_inspect(name: str, tmp_path: Path) -> None:
    made = ROWS[name].make()
    facts = inspect_lora(made.file(tmp_path))
    kinds = {kind for part in facts.parts.values() for kind in part.adapters}
    assert ROWS[name].kind in kinds
    assert "Stable Diffusion 1" in facts.family
    assert len(facts.unknown) == int(ROWS[name].skip)
    changed = {"unet": made.unet, "text_encoder": made.text}
    assert set(facts.parts) == {part for part, values in changed.items() if values}


@pytest.mark.parametrize("name", ROWS)
def test_evaluate(name: str, tmp_path: Path) -> None:
    """The model with the file gives what the base gives with the formula's weights."""
    made, lora = read(name, tmp_path)
    parts = base()
    before = drawn(parts)
    apply_lora(parts, lora)
    found, expected = drawn(parts), drawn(wanted(made))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (expected - before).abs().max() > 1e-3  # it does something
    remove_lora(*parts.values())
    assert torch.equal(drawn(parts), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_merge(name: str, tmp_path: Path) -> None:
    """Merged weights are the formula's; others stay to the bit."""
    made, lora = read(name, tmp_path)
    merged, _ = merged_pipeline(lambda *_, **__: family(tmp_path / "tokenizer"), [lora], [1.0])
    for part, values in ((merged.unet, made.unet), (merged.text_encoder, made.text)):
        own = UNET if part is merged.unet else TE
        for key, value in part.named_parameters():
            if key in values:
                torch.testing.assert_close(value.double(), values[key], **CLOSE)
            else:
                assert torch.equal(value, own.get_parameter(key)), key


def family(folder: Path) -> Any:
    pipeline = tiny_pipeline(folder)
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    return SimpleNamespace(parts=parts, pipeline=lambda: pipeline)


def converted(name: str, lora: LoraFile, out: Path, layout: Any) -> Path | None:
    """The file in a layout; ``None`` if no plain LoRA holds it."""
    kind = ROWS[name].convert
    if kind.startswith("base"):
        with pytest.raises(LoraError, match="(?s)function of the base's weights.*--base"):
            plain_form(lora)
    found = plain_form(lora, Cut(keep=1.0), base() if kind.startswith("base") else None)
    if kind == "not held":
        assert found.not_held
        return None
    assert not found.not_held
    if lora.updates:
        assert bool(found.by_svd) == kind.endswith("svd")
    write_lora(out, found.lora, layout)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_to_kohya(name: str, tmp_path: Path) -> None:
    """Read by ComfyUI's rule: every ``alpha / r * up @ down`` has a layer, and gives its weight."""
    made, lora = read(name, tmp_path)
    out = converted(name, lora, tmp_path / "kohya.safetensors", "kohya")
    if out is None:
        return
    tensors = load_file(out)
    found: dict[str, dict[str, Tensor]] = {"lora_unet_": {}, "lora_te_text_model_": {}}
    used = 0
    for key in tensors:
        if key.endswith(".lora_up.weight"):
            stem = key.removesuffix(".lora_up.weight")
            up, down = tensors[key], tensors[f"{stem}.lora_down.weight"]
            scale = tensors[f"{stem}.alpha"] / down.shape[0]
            prefix = next(each for each in found if stem.startswith(each))
            layer = dotted(stem.removeprefix(prefix))
            update = scale * (up.flatten(1) @ down.flatten(1))
            used += 3
            if f"{stem}.dora_scale" in tensors:  # LyCORIS' rule, over an output's inputs
                own = UNET.get_parameter(f"{layer}.weight").flatten(1)
                length = tensors[f"{stem}.dora_scale"].flatten(1)
                moved = own + update
                update = moved * length / moved.norm(dim=1, keepdim=True) - own
                used += 1
            found[prefix][f"{layer}.weight"] = update
    assert used == len(tensors)
    for own, values, updates in (
        (UNET, made.unet, found["lora_unet_"]),
        (TE, made.text, found["lora_te_text_model_"]),
    ):
        assert values.keys() == updates.keys()
        for key, value in values.items():
            weight = own.get_parameter(key)
            torch.testing.assert_close(
                (weight + updates[key].reshape(weight.shape)).double(), value, **NEAR
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_to_diffusers(name: str, tmp_path: Path) -> None:
    """Read by diffusers' own loader."""
    made, lora = read(name, tmp_path)
    out = converted(name, lora, tmp_path / "diffusers.safetensors", "diffusers")
    if out is None:
        return
    pipeline = tiny_pipeline(tmp_path / "tokenizer")
    pipeline.load_lora_weights(tmp_path, weight_name=out.name)
    expected = wanted(made)
    found = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    torch.testing.assert_close(drawn(found), drawn(expected), **NEAR)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",  # files, of layers that it counts as in the released models
    [name for name in ROWS if not name.startswith(("peft folder", "kohya, original"))],
)
def test_diffusers_does_what_inspect_says_of_it(name: str, tmp_path: Path) -> None:
    made = ROWS[name].make()
    path = made.file(tmp_path)
    said = inspect_lora(path).readers["diffusers"]
    pipeline = tiny_pipeline(tmp_path / "tokenizer")
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    before, expected = drawn(parts), drawn(wanted(made))
    try:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    except (ValueError, RuntimeError, KeyError, IndexError):
        assert said.startswith("refuses it"), said
        return
    found = drawn(parts)
    is_right = torch.allclose(found, expected, **CLOSE)
    assert is_right == (said == "reads it whole"), said
    assert torch.equal(found, before) == said.startswith("reads nothing"), said


def test_the_table_of_the_docs_is_this_one() -> None:
    text = (REPOSITORY / "docs" / "lora_files.md").read_text("utf-8")
    for name, row in ROWS.items():
        cells = (name, row.note, row.kind, *results(row.convert))
        assert f"| {' | '.join(cells)} |" in text, name
    assert len(ROWS) >= 30
    assert len(SGM) == 4


def results(convert: str) -> tuple[str, str, str]:
    """Cells for evaluate, merge and conversion."""
    words = {
        "exact": "exactly",
        "svd": "nearest, by SVD",
        "base": "exactly, with `--base`",
        "base svd": "nearest, by SVD, with `--base`",
        "dora": "exactly, as the DoRA that it is",
        "not held": "without its biases or norms, with `--skip-unknown`",
    }
    return "yes", "yes", words[convert]
