"""The Hydra sweeper of searches, on Optuna's public API: each trial is a cell.

Hydra finds sweepers in the namespace package ``hydra_plugins`` only.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.sdlora_sweeper import (
    jobs_of,
    launched,
    note_unused,
    raise_first,
    refuse_too_many,
    split,
    whole_command,
)


class SearchingSweeper(Sweeper):
    """Searches ``choice(...)``, ``range(...)``, ``interval(...)`` and lists, ``tag(log, ...)`` too.

    Args:
        params: Presets of the command line, as for every sweeper.
        max_batch_size: Argument of Hydra's basic sweeper; not used.
    """

    def __init__(self, params: Any, max_batch_size: int | None = None) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep Hydra's context, and make the launcher that ``hydra/launcher`` names."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until ``sweep.num_trials`` have a result.

        Args:
            arguments: The command line's overrides.

        Raises:
            ConfigError: If Optuna is missing, the space or an objective cannot be searched, or the
                folder holds another search.
        """
        from sdlora.config.rules import require

        assert self.config is not None
        assert self.hydra_context is not None
        found = importlib.util.find_spec("optuna") is not None
        require(found, "sweep", "search", "needs a package of its own: pip install sdlora[search]")

        from sdlora.assembly.search_goal import search_goal
        from sdlora.runs.run_folder import make_folder
        from sdlora.sweep.plan import SweptKey, refuse_other_kind, sweep_name
        from sdlora.sweep.search import Search

        config: Any = OmegaConf.to_object(self.config.sweep)  # its checks run here
        refuse_too_many(config.num_trials, config.max_jobs)
        command = whole_command(self.config, arguments)
        note_unused(self.config, arguments, is_search=True)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides, shared = split(parser, command)
        keys = [_searched(parser, item) for item in overrides]
        evaluation: Any = OmegaConf.to_object(self.config.evaluation)
        goal = search_goal(config, evaluation, {key.key: key.text for key in keys})
        self.validate_batch_is_legal([shared])  # a group that is not there stops all, now
        swept = [SweptKey(key.key, key.element, [key.text], []) for key in keys]
        self.config.sweep.name = config.name or sweep_name(swept, shared)
        folder = Path(self.config.hydra.sweep.dir)
        make_folder(folder, "sweep.name", "sweep.name=NAME")
        refuse_other_kind(folder, is_search=True)
        search = Search(folder, keys, goal, self.config.seed)
        self._run(search, config, arguments, swept, shared)

    def _run(
        self,
        search: Any,
        config: Any,
        arguments: Sequence[str],
        swept: Sequence[Any],
        shared: Sequence[str],
    ) -> None:
        """Run killed trials first; raise the error of the first failed one at the end."""
        from sdlora.sweep.plan import write_sweep
        from sdlora.sweep.search import SearchError

        assert self.config is not None
        assert self.launcher is not None
        errors: list[JobReturn] = []
        missing: list[str] = []
        num_jobs = failed = 0
        name = self.config.sweep.name
        with search.working():
            with search.alone():
                cut = search.cut()
            while True:
                with search.alone():
                    left = max(0, config.num_trials - search.num_trials - failed)
                    num_new = 0 if cut else min(config.trials_at_once, left)
                    numbers, cut = [*cut, *(search.ask() for _ in range(num_new))], []
                    known = search.cells()
                    total = len(known) + left - num_new
                    write_sweep(search.folder, name, arguments, swept, shared, known, total)
                if not numbers:
                    break
                trials = [number for number in numbers if number is not None]
                jobs = jobs_of(search.folder, [search.cell(n) for n in trials], shared)
                if jobs:
                    results = launched(self.launcher, search.folder, jobs, num_jobs)
                    errors += [result for result in results if result.status == JobStatus.FAILED]
                    num_jobs += len(jobs)
                with search.alone():
                    reasons = [reason for n in trials if (reason := search.tell(n))]
                failed += len(numbers) - len(trials) + len(reasons)
                missing += reasons
        print(f"search {search.folder}: {search.line()}")
        raise_first(errors)
        if missing:
            raise SearchError(missing[0])


def _searched(parser: OverridesParser, item: Override) -> Any:
    """Optuna's distribution of a key's space."""
    from optuna import distributions

    from sdlora.config.rules import ConfigError
    from sdlora.sweep.search import SearchedKey

    swept: Any = item.value()
    element, values = item.get_key_element(), {}
    try:
        if isinstance(swept, IntervalSweep | RangeSweep):
            distribution = _numbers(swept, "log" in swept.tags)
        else:
            texts = list(item.sweep_string_iterator())
            values = {text: parser.parse_override(f"{element}={text}").value() for text in texts}
            distribution = distributions.CategoricalDistribution(list(values))
    except ValueError as error:
        raise ConfigError(f"{item.input_line}: cannot be searched; {error}") from error
    text = str(item.input_line).partition("=")[2]
    return SearchedKey(item.key_or_group, element, text, distribution, values)


def _numbers(swept: IntervalSweep | RangeSweep, log: bool) -> Any:
    """An int distribution if both ends are whole numbers, as in ``int(interval(1,8))``."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(swept, IntervalSweep):
        low, high, step = swept.start, swept.end, None
    else:
        found = list(swept.range())
        low, high, step = min(found), max(found), abs(swept.step)
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)
