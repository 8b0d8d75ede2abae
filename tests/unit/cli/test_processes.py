"""Processes of one run: what each is told, that they end together, and who goes first."""

import subprocess
import sys
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies import Strategy
from omegaconf import open_dict

from sdlora.cli import processes
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.cli.processes import Followers, ProcessError, check_processes, command, in_turn
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF
from sdlora.runtime.program import process_rank

SLEEPS = "import time; from sdlora.runtime.program import follow; follow(); time.sleep(60)"


@pytest.mark.parametrize(
    ("environment", "num_processes", "rank"),
    [
        ({}, 4, 0),
        ({"RANK": "3", "SLURM_PROCID": "0"}, 4, 3),
        ({"SLURM_PROCID": "2"}, 4, 2),
        ({"SLURM_PROCID": "2"}, 1, 0),  # runs side by side in one Slurm job
    ],
)
def test_rank(
    environment: dict[str, str], num_processes: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_rank(num_processes) == rank


@pytest.fixture
def config_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``config_of(*overrides)`` composes a config as Hydra does for a run in ``runs/a b``."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    register_schemas()

    def compose_it(*overrides: str) -> TrainConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("train", list(overrides), return_hydra_config=True)
        with open_dict(composed):
            composed.hydra.runtime.output_dir = "runs/a b"
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed.hydra
        return to_typed(composed, TrainConfig)

    return compose_it


def check(config: TrainConfig) -> None:
    """As ``train.py`` checks it."""
    check_processes(config.trainer, config.run_dir, is_resumed=config.resume is not None)


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        ({}, ["trainer.num_nodes=2"], "^trainer.num_nodes=2: .* by torchrun or srun"),
        ({"WORLD_SIZE": "4"}, ["trainer.devices=2"], "^trainer.devices=2: .*is 2, but 4 processes"),
        ({"WORLD_SIZE": "2"}, ["trainer=ddp"], "^run_dir=runs/a b: .* with hydra.run.dir=FOLDER"),
        ({"SLURM_NTASKS": "2"}, ["trainer=ddp"], "^run_dir=runs/a b: each process would create a"),
        ({}, ["trainer=ddp"], None),
        ({"WORLD_SIZE": "2"}, ["trainer=ddp", "hydra.run.dir=x"], None),
        ({"WORLD_SIZE": "2"}, ["trainer=ddp", "resume=x"], None),
        ({"SLURM_NTASKS": "2"}, [], None),  # one device each: runs side by side
    ],
)
def test_processes_that_were_started_are_those_asked_for(
    config_of: Any,
    environment: dict[str, str],
    overrides: list[str],
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(*overrides)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        check(config)
        return
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_more_devices_than_there_are(config_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check(config_of("trainer=ddp", "trainer.accelerator=cpu"))
    with pytest.raises(ConfigError, match=r"^trainer.devices=2: this machine has 1 GPU\(s\)"):
        check(config_of("trainer=ddp"))


def test_what_another_process_runs(config_of: Any) -> None:
    """The job alone, in the folder of the first: nothing of the sweep that it is a cell of."""
    python = [sys.executable, "-P", "-m", "sdlora", "train"]
    silent = ["hydra.output_subdir=null", "hydra/job_logging=none"]
    cell = ("lora.r=4", "lora.alpha=${lora.r}", "hydra.sweep.dir=s", "hydra.mode=MULTIRUN")
    config_of(*cell)
    given = ["lora.r=4", "lora.alpha=${lora.r}", "hydra.run.dir='runs/a b'", "hydra.mode=RUN"]
    assert command() == [*python, *given, *silent]
    config_of("resume=runs/a", "hydra.searchpath=[file://conf]")  # which names folder and mode
    kept = ["resume=runs/a", "hydra.searchpath=[file://conf]"]
    assert command() == [*python, *kept, *silent]


def unsaid() -> None:
    """Says what is safe; unused where errors do."""
    raise AssertionError


def test_an_error_that_another_process_caused_names_it() -> None:
    with (
        pytest.raises(ProcessError, match="process 1 of this run ended with exit code 3") as caught,
        Followers([sys.executable, "-c", "raise SystemExit(3)"], 1, 60.0, unsaid),
    ):
        raise RuntimeError("connection closed by peer")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "(in this one: RuntimeError: connection closed by peer)" in str(caught.value)


def test_an_error_of_its_own_stays_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FAILS_WITHIN_S", 30.0)
    with (
        pytest.raises(ValueError, match="^lora.r=0"),
        Followers([sys.executable, "-c", SLEEPS], 2, 60.0, unsaid) as followers,
    ):
        raise ValueError("lora.r=0")
    codes = [process.returncode for process in followers._processes]
    assert codes == [2, 2]  # by the end of their input; -9 would be the last resort


def test_a_process_that_waits_for_a_dead_one_is_ended() -> None:
    """As NCCL waits, where no error comes."""
    program = """
import sys, time
from sdlora.cli import processes
processes.FAILS_WITHIN_S = 0.1
killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
with processes.Followers(killed, 1, 60.0, lambda: print("step 3 is saved")):
    time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert done.stdout == "step 3 is saved\n"
    assert "error: trainer.devices: process 1 of this run ended with exit code -9" in done.stderr


class Scripted:
    """Stands for a strategy: answers what the other processes say."""

    def __init__(
        self, is_first: bool, first_is_well: bool = True, all_are_well: bool = True
    ) -> None:
        self.is_global_zero = is_first
        self.said: list[bool] = []
        self._first_is_well, self._all_are_well = first_is_well, all_are_well

    def broadcast(self, value: bool) -> bool:
        self.said.append(value)
        return value if self.is_global_zero else self._first_is_well

    def reduce_boolean_decision(self, decision: bool) -> bool:
        self.said.append(decision)
        return decision and self._all_are_well


def go(strategy: Scripted, error: Exception | None = None) -> list[bool]:
    with in_turn(cast(Strategy, cast(Any, strategy))):
        if error is not None:
            raise error
    return strategy.said


def test_all_go_through_where_none_fails() -> None:
    assert go(Scripted(is_first=True)) == [True, True]
    assert go(Scripted(is_first=False)) == [True, True]


def test_the_first_one_fails() -> None:
    """It tells the others, who end without a word, and before their turn."""
    first = Scripted(is_first=True)
    with pytest.raises(ValueError, match="no pictures"):
        go(first, ValueError("no pictures"))
    assert first.said == [False]
    other = Scripted(is_first=False, first_is_well=False)
    with pytest.raises(SystemExit) as stop:
        go(other, AssertionError("not its turn"))
    assert stop.value.code == 2
    assert other.said == [True]


def test_another_one_fails() -> None:
    failing = Scripted(is_first=False)
    with pytest.raises(ValueError, match="no file"):
        go(failing, ValueError("no file"))
    assert failing.said == [True, False]
    with pytest.raises(SystemExit):
        go(Scripted(is_first=False, all_are_well=False))
    with pytest.raises(ProcessError, match="another process of this run failed before training"):
        go(Scripted(is_first=True, all_are_well=False))
