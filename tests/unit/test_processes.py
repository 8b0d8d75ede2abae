"""Processes of one run: what each is told, that they end together, and who goes first."""

import subprocess
import sys
from typing import Any, cast

import pytest
from lightning.pytorch.strategies import Strategy

from sdlora import processes
from sdlora.processes import Followers, ProcessError, in_turn
from sdlora.program import process_rank

SLEEPS = "import time; from sdlora.program import follow; follow(); time.sleep(60)"


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


def test_an_error_that_another_process_caused_names_it() -> None:
    with (
        pytest.raises(ProcessError, match="process 1 of this run ended with exit code 3") as caught,
        Followers([sys.executable, "-c", "raise SystemExit(3)"], 1),
    ):
        raise RuntimeError("connection closed by peer")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_its_own_stays_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FAILS_WITHIN_S", 30.0)
    with (
        pytest.raises(ValueError, match="^lora.r=0"),
        Followers([sys.executable, "-c", SLEEPS], 2) as followers,
    ):
        raise ValueError("lora.r=0")
    codes = [process.returncode for process in followers._processes]
    assert codes == [2, 2]  # by the end of their input; -9 would be the last resort


def test_a_process_that_waits_for_a_dead_one_is_ended() -> None:
    """As NCCL waits, where no error comes."""
    program = """
import sys, time
from sdlora import processes
processes.FAILS_WITHIN_S = 0.1
with processes.Followers([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 1):
    time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
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
