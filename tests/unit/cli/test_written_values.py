"""Values arrive as they were typed, whatever letters they hold."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sdlora.cli.arguments import prepared_arguments
from sdlora.cli.composition_errors import explain
from sdlora.cli.written_values import for_shell, quoted, readable
from sdlora.config.train import TrainConfig

ODD = (
    *("/p/été", "it's", "a=b", "photos (1)", "a#b", "雪 山", "a[1]", "a!b", "x;y"),
    *("photos\\José\\", "a\\'b", 'say "hi" (é)', "~user/é", "a~b"),
)


def value_of(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("value", ODD)
def test_odd_letters_are_read_as_they_stand(value: str) -> None:
    (written,) = readable([f"data.root={value}"], is_sweep=False)
    assert value_of(written) == value
    assert value_of(f"x={quoted(value)}") == value


@pytest.mark.parametrize(
    "argument",
    [
        *("lora.r=4", "lora.r=4,8", "data.root='it is'", "lora.unet.targets=[a,b]", "-m", "--help"),
        *("optim.options={eps:1e-6}", "seed=range(0,3)", "seed=choice(1,2", "lora.r=[1", "~sweep"),
        *('data.root="/p/été"', "data.roots=[{path: x}]", "data.root=", "+a.b=c", "no value"),
    ],
)
def test_what_hydra_reads_or_refuses_stays(argument: str) -> None:
    assert readable([argument], is_sweep=False) == [argument]


def test_lists_and_sweeps_keep_their_commas() -> None:
    (written,) = readable(["sampling.prompts=[a café, 7,a man]"], is_sweep=False)
    assert value_of(written) == ["a café", 7, "a man"]
    (written,) = readable(["data.root=été,hiver"], is_sweep=True)
    assert written == "data.root='été',hiver"
    (written,) = readable(["data.captions.prefix=sks, été"], is_sweep=False)
    assert value_of(written) == "sks, été"


@pytest.mark.parametrize("key", ["run_dir", "hydra.run.dir", "data.root", "resume", "model.path"])
@pytest.mark.parametrize("home", ["/people/me", "/people/José (1)"])
def test_the_users_folder_is_expanded(key: str, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", home))
    for value in ("~/out", "'~/out'", '"~/out"'):
        (written,) = readable([f"{key}={value}"], is_sweep=False)
        assert value_of(written) == f"{home}/out"
    (written,) = readable([f"{key}=~"], is_sweep=False)
    assert value_of(written) == home


def test_the_command_line_of_a_run_is_read_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", "/people/me"))
    assert prepared_arguments(["run_dir=~/out", "data.root=été"], TrainConfig) == [
        "hydra.run.dir=/people/me/out",
        "data.root='été'",
    ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("value", [*ODD, "x]y", "a,b", "$HOME", "a`b`", "one, 'two'"])
def test_the_advice_works_in_bash(value: str) -> None:
    told = explain(_error(f"data.root=[{value}"), TrainConfig, [], [Path("conf")])
    advice = told.rpartition("is one text, write ")[2]
    assert advice == for_shell("data.root", f"[{value}")
    script = f"printf %s {advice}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert value_of(done.stdout.decode()) == f"[{value}"


def _error(argument: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's, whichever
        OverridesParser.create().parse_overrides([argument])
    return caught.value
