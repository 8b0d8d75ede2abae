"""``sdlora COMMAND``: the right one is called with the rest of the line, a wrong one is named."""

import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdlora import __main__, __version__
from sdlora.commands.lora import arguments as lora


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sdlora", *words])
    __main__.main()


def test_a_command_gets_the_rest_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    for name, (function, _) in __main__.COMMANDS.items():
        module, _, attribute = function.partition(":")
        given = ["-m", "lora.r=2,4"]
        monkeypatch.setattr(
            pkgutil.resolve_name(module), attribute, lambda: called.append(sys.argv)
        )
        call(monkeypatch, name, *given)
        assert called.pop() == [f"sdlora {name}", *given]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: sdlora trian: no such command; did you mean sdlora train? there are "),
        (["data.root=photos"], "error: sdlora data.root=photos: no such command; there are train"),
        ([], "the following arguments are required"),
        (["--versoin"], "the following arguments are required"),
        (
            ["lora", "inspct"],
            "error: sdlora lora inspct: no such command; did you mean sdlora "
            "lora inspect? there are inspect, convert",
        ),  # fmt: skip
        (["lora"], "the following arguments are required"),
    ],
)
def test_a_wrong_command_names_the_nearest(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out


def test_help_and_version_need_no_library(repository: Path) -> None:
    code = "import sys; from sdlora.__main__ import main\ntry: main()\n"
    code += "finally: assert not {'torch', 'hydra', 'numpy'} & set(sys.modules)"
    for flag, shown in (("--version", f"sdlora {__version__}"), ("--help", "LoRA files")):
        command = [sys.executable, "-c", code, flag]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout


def test_every_command_of_lora_is_there() -> None:
    assert all(callable(pkgutil.resolve_name(does)) for does, _, _ in lora.COMMANDS.values())
