"""The study of a search: the values and results of each trial.

It is an Optuna journal in the sweep's folder, which several processes and machines may share.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from sdlora.config.rules import ConfigError
from sdlora.config.score_kinds import kind
from sdlora.runtime.randomness import derive_seed
from sdlora.sweep.cells import SweepError, read_sweep
from sdlora.sweep.plan import STUDY, Cell, SweptKey, cells
from sdlora.sweep.state import DONE, RUNNING

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

NAME = "search"
"""Name of the study in its journal."""

WORKER, CELL, PRUNED = "worker", "cell", "pruned"
"""Attributes of a trial: its worker, its cell, and the step at which it was stopped early."""


class SearchError(ValueError):
    """A search with a trial that has no result."""


@dataclass(frozen=True, slots=True)
class SearchedKey:
    """A key whose values are searched.

    Attributes:
        key: Its name in the config.
        element: Its name on the command line, with ``+`` or ``++`` if given.
        text: The space as typed.
        distribution: The space for Optuna; choices are the texts of their values.
        values: Text of a choice -> its value; empty for numbers.
    """

    key: str
    element: str
    text: str
    distribution: "BaseDistribution"
    values: Mapping[str, Any]

    def at(self, chosen: Any) -> SweptKey:
        """One value of a cell; numbers have four digits, since they become folder names."""
        text = f"{chosen:.4g}" if isinstance(chosen, float) else str(chosen)
        value = self.values[text] if self.values else type(chosen)(text)
        return SweptKey(self.key, self.element, [text], [value])


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Objectives and space of a study, which a second command may not change.

    Attributes:
        objectives: Score -> ``minimize`` or ``maximize``.
        space: Key -> its values as typed.
        prune_after: Number of trials that run to their end before one may be stopped; None: no
            pruning.
    """

    objectives: Mapping[str, Literal["minimize", "maximize"]]
    space: Mapping[str, str]
    prune_after: int | None


class Search:
    """The study of a sweep's folder, continued if it exists.

    Args:
        folder: Of the sweep.
        keys: The searched keys.
        goal: Goal of the search.
        seed: The sampler's draws are a function of it, the trial's number and the earlier trials: a
            killed search continues with the same trials.

    Raises:
        ConfigError: If the folder's study has another goal.
    """

    def __init__(self, folder: Path, keys: Sequence[SearchedKey], goal: Goal, seed: int) -> None:
        self.folder = folder
        self.worker = -1
        self._keys = keys
        self._seed = seed
        folder.mkdir(parents=True, exist_ok=True)
        with self.alone():
            self._study = _open_study(folder, goal)

    def alone(self) -> FileLock:
        """A lock that one process at a time holds."""
        return FileLock(self.folder / ".search.lock")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Register as a worker of the search, with the first number that no living process has."""
        for number in count():
            lock = FileLock(self.folder / f".worker-{number}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self.worker = number
            try:
                yield
            finally:
                lock.release()
            return

    def cut(self) -> list[int]:
        """Numbers of the trials that a killed process with this worker's number left running."""
        running = self._running()
        for trial in running:
            if WORKER not in trial.user_attrs:  # killed before it was noted down
                self._fail(trial.number)
        return [trial.number for trial in running if trial.user_attrs.get(WORKER) == self.worker]

    def ask(self) -> int | None:
        """Begin a trial; None if a running trial has the same values."""
        from optuna.samplers import TPESampler

        number = len(self._study.get_trials(deepcopy=False))
        busy = {trial.user_attrs[CELL]["folder"] for trial in self._running()}
        # optuna: seeds of numpy's legacy generator have 32 bits
        self._study.sampler = TPESampler(seed=derive_seed(self._seed, "search", number) % 2**32)
        trial = self._study.ask({key.key: key.distribution for key in self._keys})
        [cell] = cells([key.at(trial.params[key.key]) for key in self._keys])
        trial.set_user_attr(CELL, asdict(replace(cell, number=number)))
        trial.set_user_attr(WORKER, self.worker)
        if cell.folder in busy:
            self._fail(number)
            return None
        return number

    def tell(self, number: int) -> str | None:
        """Record the result of a trial from its cell's folder; returns why there is none.

        Several objectives are taken from one step: the best, else the last.
        """
        from optuna.trial import TrialState

        trial = self._trial(number)
        cell = trial.user_attrs[CELL]["folder"]
        found = next(c for c in read_sweep(self.folder).cells if c.folder.name == cell)
        if found.state == RUNNING:
            return f"trial {number}: was killed; the same command continues it"
        scores = found.chosen_scores
        values = [None if scores is None else scores.value(name) for name in self.objectives]
        if found.state != DONE or None in values:
            self._fail(number)
            return (
                f"trial {number}: {found.state}, but not all of {', '.join(self.objectives)} are "
                f"available (sweep.objectives); see report.html in {found.folder}"
            )
        if PRUNED in trial.user_attrs:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, [float(value) for value in values if value is not None])
        return None

    @property
    def objectives(self) -> list[str]:
        """Names of the optimized scores."""
        return list(self._study.user_attrs["goal"]["objectives"])

    @property
    def num_trials(self) -> int:
        """Number of trials with a result or running, here or elsewhere."""
        from optuna.trial import TrialState

        wanted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return len(self._study.get_trials(deepcopy=False, states=wanted))

    def cell(self, number: int) -> Cell:
        """The cell of a trial; trials with the same values share it."""
        return Cell(**self._trial(number).user_attrs[CELL])

    def cells(self) -> list[Cell]:
        """The cells of all trials, numbered by the first trial of each."""
        found: dict[str, Cell] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if CELL in trial.user_attrs:
                cell = Cell(**trial.user_attrs[CELL])
                found.setdefault(cell.folder, cell)
        return list(found.values())

    def line(self) -> str:
        """Summary: number of trials in each state, and the best one or the Pareto front.

        With several objectives it lists all trials that no other dominates.
        """
        from optuna.trial import TrialState

        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        named_states = {"complete": TrialState.COMPLETE, "stopped early": TrialState.PRUNED}
        named_states |= {"failed": TrialState.FAIL, "running": TrialState.RUNNING}
        counts = [f"{states.count(state)} {name}" for name, state in named_states.items()]
        text = ", ".join(part for part in counts if not part.startswith("0 "))
        for trial in self._study.best_trials if TrialState.COMPLETE in states else []:
            pairs = zip(self.objectives, trial.values, strict=True)
            values = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
            text += f"\n  best: trial {trial.number}, {values}: {trial.user_attrs[CELL]['folder']}"
            text += self._against_base(trial.values)
        return text

    def _against_base(self, values: Sequence[float]) -> str:
        """A remark where a trial's only objective is not better than the base's."""
        name, *others = self.objectives
        try:
            base = read_sweep(self.folder).base
        except SweepError:
            return ""
        before = None if others or base is None else base.value(name)
        if before is None or kind(name).sign * (values[0] - before) < 0:
            return ""
        return f", which is not better than the base ({before:.4g}): take none of them"

    def _running(self) -> "list[FrozenTrial]":
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _fail(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)

    def _trial(self, number: int) -> "FrozenTrial":
        return self._study.get_trials(deepcopy=False)[number]


def storage_of(folder: Path) -> "JournalStorage":
    """The journal in a sweep's folder, created if missing."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = str(folder / STUDY)  # the default lock is a link, for which Windows asks a privilege
    return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))


def _open_study(folder: Path, goal: Goal) -> "Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=NAME,
        storage=storage_of(folder),
        directions=list(goal.objectives.values()),
        load_if_exists=True,
    )
    before = study.user_attrs.get("goal")
    if before is None:
        study.set_user_attr("goal", asdict(goal))
    elif before != asdict(goal):
        changed = [f"\n  {k}: was {before.get(k)}, now {v}" for k, v in asdict(goal).items()]
        raise ConfigError(
            f"sweep.name={folder.name}: {folder} holds a search with another goal, whose trials "
            f"are not comparable; choose another name.{''.join(changed)}"
        )
    return study
