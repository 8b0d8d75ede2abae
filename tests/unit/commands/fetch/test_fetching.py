"""``sdlora fetch`` as a user types it, from a server on this machine."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sdlora import __main__
from sdlora.assembly.needed_weights import Need, require_weights
from sdlora.config.rules import ConfigError
from sdlora.weights import downloads, face_files
from sdlora.weights.face_files import Source
from tests.composed import store_left_as_found, train_config
from tests.unit.weights.servers import serving

FILE = "face_detection_yunet_2023mar.onnx"
ONNX = b"\x08\x07" + b"\x12\x03net"
CROP = ("data.crop=face", "data.face_detector=yunet")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where weights go; a server gives the detector's file, which is small here."""
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving({f"/{FILE}": ONNX}) as (at, _):
        source = Source((f"{at}/{FILE}",))
        monkeypatch.setitem(face_files.SOURCES, FILE, source)
        assert downloads.SOURCES is face_files.SOURCES
        yield tmp_path / "home"


def call(*words: str) -> int:
    """Run ``sdlora fetch`` in this process; returns its exit code."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, store_left_as_found():
        patch.setattr(sys, "argv", ["sdlora", "fetch", *words])
        patch.setenv("COLUMNS", "300")
        try:
            __main__.main()
        except SystemExit as stop:
            return int(str(stop.code))
    return 0


def test_it_gets_what_is_not_there_and_keeps_what_is(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = home / ".deepface" / "weights" / FILE
    assert call(*CROP, "run_dir=elsewhere") == 0
    said = capsys.readouterr().out
    assert f"data.face_detector=yunet: getting {FILE}" in said
    assert "no checksum of it is known" in said
    assert f"copy:\n  {file.parent}" in said
    assert file.read_bytes() == ONNX
    assert call(*CROP) == 0
    assert "data.face_detector=yunet: is there" in capsys.readouterr().out
    file.write_text("<html>Not Found</html>")
    assert call(*CROP) == 0
    assert file.read_bytes() == ONNX
    assert not list((tmp_path / "here").iterdir()), "it leaves no folder behind"


def test_what_it_cannot_get_is_named_after_the_rest_was_got(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*CROP, "model.path=owner/base") == 2
    shown = capsys.readouterr()
    assert "not everything could be got:\n  model.path=owner/base: HF_HUB_OFFLINE is" in shown.err
    assert (home / ".deepface" / "weights" / FILE).read_bytes() == ONNX
    assert "all that this run needs is here" not in shown.out


def test_the_overrides_of_an_evaluation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only_face = ("evaluation=none", "evaluation.face=deepface")
    options = ("evaluation.face.options.detector=yunet", "images=pictures")
    assert call("evaluate", *only_face, *options, "evaluation.face.options.model_name=SFace") == 2
    shown = capsys.readouterr()
    assert f"evaluation.face.options.detector=yunet: getting {FILE}" in shown.out
    assert "model_name=SFace: face_recognition_sface_2021dec.onnx: https://github.com" in shown.err


def test_the_command_of_a_run_that_stopped_is_its_remedy(home: Path) -> None:
    needs = [Need("data.face_detector", "yunet", files=(FILE,))]
    evaluation = train_config().evaluation
    with pytest.raises(ConfigError) as error:
        require_weights(needs, evaluation, ["sdlora", "fetch", *CROP])
    command = shlex.split(str(error.value).splitlines()[-1].partition("network: ")[2])
    assert command[:2] == ["sdlora", "fetch"]
    assert call(*command[2:]) == 0
    require_weights(needs, evaluation, command)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "lora.r=4,8"), "error: sdlora fetch: gets what one run needs; leave out -m"),
        (("modle=sd15",), "error: modle=sd15: unknown key; did you mean model?"),
        (("lora.r=0",), "error: lora.r=0: must be a whole number >= 1"),
    ],
)
def test_wrong_words_are_named(
    words: tuple[str, ...], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_nothing_to_get_and_help(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    assert "nothing to get" in capsys.readouterr().out
    assert call("--help") == 0
    assert "sdlora fetch model=sd15 data.root=photos" in capsys.readouterr().out
