"""Run folders and LoRA files of strangers: only what was learnt is taken from them."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sdlora.adapters.formats import read_metadata
from sdlora.adapters.lora_places import DIFFUSERS_FILE
from tests.smoke.conftest import TrainHere

pytestmark = pytest.mark.slow

FEW = (
    *("trainer.max_steps=1", "sampling.num_steps=1", "sampling.num_prompts=1"),
    *("sampling.every_n_steps=0", "evaluation=none", "logger=none"),
)
SECRET = "a line that only this user may read"


@pytest.fixture
def made(train_only: TrainHere, random_base: Path, pictures: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    run = tmp_path / "run"
    train_only(*FEW, f"model.path={random_base}", f"data.root={pictures}", f"run_dir={run}")
    return run


def strange(run: Path, **changes: Any) -> Path:
    """The run as a stranger would send it: other values, and no seal that fits."""
    file = run / "config.json"
    record = json.loads(file.read_text("utf-8"))
    for key, value in changes.items():
        *groups, name = key.split("__")
        place = record["config"]
        for group in groups:
            place = place[group]
        place[name] = value
    file.write_text(json.dumps(record | {"origin": "0" * 64}), "utf-8")
    return run


def in_the_message(told: str) -> list[str]:
    """The arguments that a message gives, as a shell reads them."""
    return [argument for line in told.splitlines()[1:] for argument in shlex.split(line)]


def test_a_strangers_run_goes_on_once_its_places_are_given(
    made: Path,
    train_only: TrainHere,
    message_of: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret, cache = tmp_path / "secret.txt", tmp_path / "not_here"
    secret.write_text(SECRET, "utf-8")
    before = json.loads((made / "config.json").read_text("utf-8"))["config"]
    strange(made, sampling__prompts=str(secret), data__cache__dir=str(cache))

    told = message_of(f"resume={made}", "trainer.max_steps=2")
    assert told.startswith(f"resume={made}: was not made by you on this machine")
    given = in_the_message(told)
    assert {item.partition("=")[0] for item in given} == {
        *("data.root", "data.cache.dir", "model.path", "sampling.prompts"),
    }
    told = message_of(f"run={made}", "evaluation=none", evaluate=True)
    assert "data.root" not in told
    of_model = [item for item in in_the_message(told) if item.startswith("model.")]
    own = ["sampling.prompts=example:prompts.txt", f"run_dir={tmp_path / 'scores'}"]
    train_only(f"run={made}", "evaluation=none", *of_model, *own, evaluate=True)
    assert (
        "left out: the training pictures, since you did not make this run"
        in capsys.readouterr().out
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != secret]
    texts = [path.read_bytes() for path in written if path.name != "config.json"]
    assert not any(SECRET.encode() in text for text in texts)
    assert not cache.exists()

    right = [item for item in given if not item.startswith(("data.cache", "sampling."))]
    right += ["data.cache.dir=null", f"sampling.prompts={before['sampling']['prompts']}"]
    train_only(f"resume={made}", "trainer.max_steps=2", *right)
    train_only(f"resume={made}", "trainer.max_steps=3")  # it is this user's own from now on
    assert not cache.exists()


def test_a_strangers_lora_is_repeated_once_its_places_are_given(
    made: Path,
    train_only: TrainHere,
    message_of: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    file = made / "lora" / DIFFUSERS_FILE
    header = read_metadata(file)
    config = json.loads(header["sdlora.config"])
    config["data"]["captions"]["default"] = "${oc.env:A_TOKEN}"
    config["sampling"]["negative_prompt"] = "${oc.env:A_TOKEN}"
    other = tmp_path / "theirs.safetensors"
    names = ("sdlora.config", "sdlora.hashes", "sdlora.versions", "lora_adapter_metadata")
    kept = {name: header[name] for name in names if name in header}
    save_file(load_file(file), other, kept | {"sdlora.config": json.dumps(config)})

    told = message_of(f"from_lora={other}", f"run_dir={tmp_path / 'again'}")
    assert told.startswith(f"from_lora={other}: was not made by you on this machine")
    train_only(f"from_lora={other}", *in_the_message(told), f"run_dir={tmp_path / 'again'}")
    written = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    now = json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))["config"]
    assert now["sampling"]["negative_prompt"] == "${oc.env:A_TOKEN}"  # as text
    train_only(f"from_lora={made / 'lora' / DIFFUSERS_FILE}", f"run_dir={tmp_path / 'own'}")
