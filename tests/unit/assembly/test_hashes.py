"""A base model is known by its files' bytes, which are read once."""

from pathlib import Path

import pytest

from sdlora.assembly import hashes
from sdlora.assembly.hashes import base_hashes, file_hashes, part_key
from sdlora.config.train import TrainConfig
from sdlora.runtime.files import sha256
from tests.composed import train_config


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    base = tmp_path / "base"
    for part in ("vae", "unet", "text_encoder", "tokenizer"):
        (base / part).mkdir(parents=True)
        (base / part / "config.json").write_text(f"{{{part}}}", "utf-8")
        (base / part / "weights.safetensors").write_text(f"weights of {part}", "utf-8")
    given = [f"model.path={base}", f"data.cache.dir={tmp_path / 'cache'}"]
    return train_config(*given)


def test_weights_are_known_by_their_bytes(config: TrainConfig) -> None:
    base = Path(config.model.path)
    names = [f"{part}/weights.safetensors" for part in ("vae", "unet", "text_encoder")]
    before = base_hashes(config.model, config.data)
    assert before == {name: sha256(base / name) for name in names}
    (base / names[1]).write_text("other weights", "utf-8")
    after = base_hashes(config.model, config.data)
    assert {name for name in before if before[name] != after[name]} == {names[1]}
    config.model.scratch = ["unet"]
    assert set(base_hashes(config.model, config.data)) == {names[0], names[2]}


def test_a_key_changes_with_every_file_and_setting(config: TrainConfig) -> None:
    base = Path(config.model.path)
    first = part_key(["vae"], config.model, config.data, ["fp32"])
    assert part_key(["vae"], config.model, config.data, ["fp32"]) == first
    others = {
        part_key(["vae"], config.model, config.data, ["bf16"]),
        part_key(["unet"], config.model, config.data, ["fp32"]),
    }
    (base / "vae" / "config.json").write_text("{other}", "utf-8")
    others.add(part_key(["vae"], config.model, config.data, ["fp32"]))
    assert len(others | {first}) == 4


def test_files_are_read_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_hashes(["vae"], config.model, config.data)
    monkeypatch.setattr(hashes, "sha256", lambda path: f"read {path} again")
    assert file_hashes(["vae"], config.model, config.data) == first


def test_another_vae_is_known_by_its_own_bytes(config: TrainConfig, tmp_path: Path) -> None:
    first = part_key(["vae"], config.model, config.data, [])
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{vae}", "utf-8")
    (other / "weights.safetensors").write_text("weights of another", "utf-8")
    config.model.vae = str(other)
    assert part_key(["vae"], config.model, config.data, []) != first
    names = {"vae/config.json": "config.json", "vae/weights.safetensors": "weights.safetensors"}
    expected = {name: sha256(other / file) for name, file in names.items()}
    assert file_hashes(["vae"], config.model, config.data) == expected
