"""How many trials of a search go to the launcher at once."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra.core.utils import JobStatus

from hydra_plugins.sdlora_search import SearchingSweeper
from sdlora.config.sweep import SweepConfig
from sdlora.sweep.plan import Cell


class Search:
    """A search whose trials all have a result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_trials = 0

    def working(self) -> Any:
        return nullcontext()

    alone = working

    def cut(self) -> list[int]:
        return []

    def cells(self) -> list[Cell]:
        return []

    def ask(self) -> int:
        return self.num_trials

    def cell(self, number: int) -> Cell:
        return Cell(number, f"trial-{number}", {}, [])

    def tell(self, number: int) -> None:
        self.num_trials += 1

    def line(self) -> str:
        return ""


def test_so_many_trials_go_together(tmp_path: Path) -> None:
    rounds: list[int] = []

    def launch(jobs: list[list[str]], initial_job_idx: int) -> list[Any]:
        assert initial_job_idx == sum(rounds)
        rounds.append(len(jobs))
        return [SimpleNamespace(status=JobStatus.COMPLETED)] * len(jobs)

    sweeper: Any = SearchingSweeper(None)
    sweeper.config = SimpleNamespace(sweep=SimpleNamespace(name="mine"))
    sweeper.launcher = SimpleNamespace(launch=launch)
    sweep = SweepConfig(max_jobs=9, objectives=["kid"], num_trials=7, trials_at_once=3)
    sweeper._run(Search(tmp_path), sweep, [], [], [])
    assert rounds == [3, 3, 1]
