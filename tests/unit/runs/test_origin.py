"""Places of a stored config: one's own are followed, those of a stranger must be given again."""

import json
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sdlora.cli.written_values import as_typed
from sdlora.config.keys import all_keys
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runs import origin
from sdlora.runs.origin import refuse_strange, seal, strange_places
from sdlora.runs.stored_paths import PATHS


@pytest.fixture(autouse=True)
def users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "user" / name))
    return tmp_path / "user" / "sdlora"


def config(**places: Any) -> dict[str, Any]:
    data = {"root": "photos", "roots": [], "val_root": None, "cache": {"dir": None}}
    return {"data": {**data, **places}, "model": {"path": "embedded:tiny-sd"}, "seed": 3}


def test_what_this_user_wrote_is_ones_own_whatever_else_changes(users_folder: Path) -> None:
    sealed = seal(config())
    assert strange_places(json.loads(json.dumps(config())), sealed) == {}
    assert strange_places(config() | {"seed": 4}, sealed) == {}  # of no place
    turned = dict(reversed(config(val_root="held").items()))  # as a header has its keys
    assert strange_places(turned, seal(config(val_root="held"))) == {}
    assert (users_folder / "origin.key").stat().st_mode & 0o077 == 0


def test_an_altered_place_an_altered_seal_and_none_are_strange() -> None:
    sealed = seal(config())
    assert sealed is not None
    assert strange_places(config(root="/etc"), sealed) == {"data.root": "/etc"}
    for other in (None, "", 3, sealed[:-1], sealed.upper()):
        assert strange_places(config(), other) == {"data.root": "photos"}


def test_another_users_seal_is_strange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sealed = seal(config())
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "other"))
    assert strange_places(config(), sealed) == {"data.root": "photos"}


def test_a_home_that_cannot_be_written_leaves_the_key_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "file" / name))
    monkeypatch.setenv("SDLORA_CACHE", str(tmp_path / "cache"))
    assert strange_places(config(), seal(config())) == {}
    assert (tmp_path / "cache" / "origin.key").is_file()


def test_where_no_key_can_be_kept_nothing_is_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*told: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(origin, "write_bytes", refuse)
    assert seal(config()) is None
    assert strange_places(config(), None) == {"data.root": "photos"}


def test_what_the_project_ships_is_nobodys_own() -> None:
    shipped = config(root="example:portraits") | {"sampling": {"prompts": "captions"}}
    assert strange_places(shipped, None) == {}
    climbing = config(root="example:../../secrets")
    assert strange_places(climbing, None) == {"data.root": "example:../../secrets"}


def test_places_that_are_given_are_no_longer_asked_for() -> None:
    strange = config(roots=[{"path": "a", "repeats": 2}, {"path": "b, c", "repeats": None}])
    refuse_strange(strange, None, ["data.root", "data.roots"], "resume=R")
    refuse_strange(strange, None, ["data"], "resume=R")
    refuse_strange(strange, None, [], "run=R", groups=("model", "sampling"))
    with pytest.raises(ConfigError, match="^resume=R: was not made by you") as refusal:
        refuse_strange(strange, None, ["data.rootss"], "resume=R")
    given = [line.strip().strip("'") for line in str(refusal.value).splitlines()[1:]]
    assert given[0] == "data.root=photos"
    value = OverridesParser.create().parse_override(given[1].replace("'\"'\"'", "'")).value()
    assert value == [{"path": "a", "repeats": 2}, {"path": "b, c"}]


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "a b", "it's", [1, "x,y"], {"a": "b:c"}])
def test_values_are_typed_as_hydra_reads_them(value: Any) -> None:
    assert OverridesParser.create().parse_override(f"x={as_typed(value)}").value() == value


def test_every_key_of_text_is_known_to_be_a_place_or_not() -> None:
    """A key more must be put on one side, so that no path of a stranger slips through."""
    texts = {key for key, kind in all_keys(TrainConfig).items() if "str" in str(kind)}
    assert texts - {*PATHS, "data.roots.path"} == NO_PLACES


NO_PLACES = {  # ``run_dir``, ``resume`` and ``from_lora`` belong to a start
    "data.alpha",
    "data.background",
    "data.buckets.mode",
    "data.cache.mode",
    "data.captions.default",
    "data.captions.lines",
    "data.captions.prefix",
    "data.captions.separator",
    "data.captions.suffix",
    "data.class_word",
    "data.crop",
    "data.face_detector",
    "data.hub.caption_column",
    "data.hub.image_column",
    "data.hub.revision",
    "data.hub.split",
    "data.on_error",
    "data.prior.mode",
    "data.prior.prompt",
    "data.source",
    "data.trigger_word",
    "evaluation.aesthetic.name",
    "evaluation.attributes.name",
    "evaluation.class_word",
    "evaluation.clip.name",
    "evaluation.face.name",
    "evaluation.image.name",
    "evaluation.on_missing",
    "evaluation.select",
    "evaluation.trigger_word",
    "export.dtype",
    "export.licence",
    "export.name",
    "from_lora",
    "lora.PART.method",
    "lora.init",
    "lora.new_word.init",
    "lora.new_word.name",
    "lora.type",
    "model.family",
    "model.prediction_type",
    "model.quantise",
    "model.recommended.attributes",
    "model.recommended.face",
    "model.recommended.face_detector",
    "model.recommended.precision",
    "model.recommended.sampler",
    "model.recommended.select",
    "model.recommended.shift",
    "model.recommended.timesteps",
    "model.recommended.text_encoder_method",
    "model.revision",
    "model.vae_precision",
    "model.variant",
    "objective.error.name",
    "objective.error.schedule",
    "objective.prediction_type",
    "objective.timesteps.name",
    "objective.timesteps.shift",
    "objective.weighting",
    "optim.name",
    "resume",
    "run_dir",
    "sampling.negative_prompt",
    "sampling.prompt_prefix",
    "sampling.sampler",
    "sampling.trigger_word",
    "scheduler.name",
    "scheduler.per",
    "sweep.name",
    "trainer.accelerator",
    "trainer.precision",
}
"""Keys of text that name no file and no model."""
