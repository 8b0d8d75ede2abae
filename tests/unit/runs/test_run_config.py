"""A run's config: written once, and what a resumed run may change."""

from pathlib import Path
from typing import Any

import pytest

from sdlora.config.keys import flat
from sdlora.runs.run_config import (
    differences,
    now,
    read_config,
    refuse_changes,
    started_at,
    write_config,
)
from sdlora.runs.run_folder import RunFolderError

CONFIG: dict[str, Any] = {
    "seed": 0,
    "run_dir": "a",
    "lora": {"r": 8, "unet": {"targets": ["to_q"]}},
    "data": {"root": "photos", "resolution": 64},
    "trainer": {"max_steps": 10, "precision": "fp32"},
}
HASHES = {"data": "0123456789abcdef", "unet/model.safetensors": "ff"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, CONFIG, HASHES)
    return tmp_path


def test_config_comes_back(folder: Path) -> None:
    assert read_config(folder) == (CONFIG, HASHES)


@pytest.mark.parametrize("content", [None, "", "{", '{"config": {}}'])
def test_missing_or_damaged_config_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, "utf-8")
    with pytest.raises(RunFolderError, match="config.json is missing or damaged"):
        read_config(tmp_path)


def test_what_weights_do_not_depend_on_may_change(folder: Path) -> None:
    now = {
        **CONFIG,
        "run_dir": "b",
        "data": {"root": "moved", "resolution": 64},
        "trainer": {"max_steps": 20, "precision": "fp32"},
    }
    refuse_changes(folder, now, HASHES)


def test_the_batches_of_a_step_may_be_dealt_to_other_devices(folder: Path) -> None:
    """Two devices of two batches each, or four of one, take the step of four batches."""
    before = {**CONFIG, "trainer": {"accumulate_grad_batches": 4}}  # of one device, unsaid
    write_config(folder, before, HASHES)
    two = {"accumulate_grad_batches": 2, "devices": 2, "num_nodes": 1, "timeout_min": 9}
    refuse_changes(folder, {**CONFIG, "trainer": two})
    with pytest.raises(RunFolderError, match="\n  .*devices.*num_nodes: was 4, now 8\n"):
        refuse_changes(folder, {**CONFIG, "trainer": {**two, "num_nodes": 2}})


def test_changes_are_listed_with_key_old_and_new(folder: Path) -> None:
    now = {**CONFIG, "seed": 1, "lora": {"r": 16, "unet": {"targets": ["to_q", "to_k"]}}}
    with pytest.raises(RunFolderError) as caught:
        refuse_changes(folder, now, {**HASHES, "data": "fedcba9876543210"})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"resume={folder}: cannot continue, since this changed:"
    assert lines[1:] == [
        "  lora.r: was 8, now 16",
        "  lora.unet.targets: was ['to_q'], now ['to_q', 'to_k']",
        "  seed: was 0, now 1",
        "  data: its content has changed (SHA-256 0123456789ab -> fedcba987654)",
        "Set it back, or start a new run.",
    ]


def test_a_run_of_a_version_without_a_key_is_not_continued(folder: Path) -> None:
    """Its weights depend on a key whose value nobody chose, and nothing can set it back."""
    now = {**CONFIG, "lora": {**CONFIG["lora"], "type": "lora", "oft_block_size": 32}}
    with pytest.raises(RunFolderError) as caught:
        refuse_changes(folder, now, HASHES)
    assert str(caught.value) == (
        f"resume={folder}: was made by another version of sdlora, which has no "
        "lora.oft_block_size, lora.type; continue it with that version, or start a new run"
    )


def test_flat_and_differences() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": []}) == {"a.b.c": 1, "d": []}
    assert differences({"a": 1, "b": 2}, {"b": 3, "c": 4}) == [
        ("a", 1, None),
        ("b", 2, 3),
        ("c", None, 4),
    ]


def test_a_resumed_run_began_when_it_first_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started_at(tmp_path) is None
    for time, config, began in (
        ("100", CONFIG, 100.0),
        ("200", {**CONFIG, "resume": "a"}, 100.0),
        ("300", CONFIG, 300.0),
    ):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
        write_config(tmp_path, config, HASHES)
        assert started_at(tmp_path) == began
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert now() > 1.7e9
