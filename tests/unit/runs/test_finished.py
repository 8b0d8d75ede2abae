"""A finished run has every file of its end, and they are of its last step."""

import json
import shutil
from pathlib import Path

import pytest

from sdlora.runs.finished import FINISHED, forget_finished, is_finished, write_finished


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("lora/README.md", "lora/unet/adapter.safetensors", "last/a.safetensors", "r.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write_finished(tmp_path, 4, ("r.html", "unscored.json"))
    return tmp_path


def test_it_is_of_one_step(run: Path) -> None:
    assert is_finished(run, 4)
    assert not is_finished(run, 3)
    assert json.loads((run / FINISHED).read_text("utf-8"))["files"] == [
        *("last/a.safetensors", "lora/README.md", "lora/unet/adapter.safetensors", "r.html"),
    ]
    forget_finished(run)
    assert not is_finished(run, 4)
    forget_finished(run)


@pytest.mark.parametrize("name", ["lora/README.md", "last", "lora", "r.html", FINISHED])
def test_whatever_is_gone_the_end_is_not_there(run: Path, name: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert not is_finished(run, 4)


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 4}', '{"step": 4, "files": []}'])
def test_a_damaged_note_is_none(run: Path, text: str) -> None:
    (run / FINISHED).write_text(text, "utf-8")
    assert not is_finished(run, 4)


def test_a_name_outside_the_folder_is_no_file_of_it(run: Path) -> None:
    (run / FINISHED).write_text(json.dumps({"step": 4, "files": ["../x"]}), "utf-8")
    (run.parent / "x").touch()
    assert not is_finished(run, 4)
