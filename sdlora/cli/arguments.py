"""The command line as given -> as Hydra takes it, for each thing that Hydra cannot do itself."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sdlora.cli.written_values import quoted, readable
from sdlora.config.epochs import EPOCH_KEYS
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import all_keys
from sdlora.runtime.places import RUN_CONFIG

LATEST, OUTPUTS = "latest", "outputs"
"""Value of ``resume`` for the run that was started last, and the folder of all runs."""

MULTIRUN = ("-m", "--multirun")


FLAGS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp"),
    *("--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"),
)
"""Hydra's flags that take the following word."""


def prepared_arguments(arguments: Sequence[str], schema: type) -> list[str]:
    """The command line rewritten for Hydra, for each thing that Hydra cannot do itself.

    Raises:
        ValueError: If ``resume=`` does not name a run folder.
    """
    is_sweep = any(item in MULTIRUN or item.startswith("sweep=") for item in arguments)
    given = opened_shortcuts(readable(arguments, is_sweep=is_sweep))
    refuse_two_units(given)
    if schema is EvaluateConfig:
        given = written_where_it_lies(listed(given, schema))
    else:
        given = resumed_arguments(listed_roots(given))
    ordered = flags_first(opened_options(given, schema))
    return named_by_sweep(ordered) if schema is EvaluateConfig else ordered


def refuse_two_units(arguments: Sequence[str]) -> None:
    """Refuse a length or an interval that is given in epochs and in steps.

    Raises:
        ValueError: Naming both keys.
    """
    given = {_key(item): item for item in arguments if not item.endswith("=null")}
    for in_epochs, in_steps in EPOCH_KEYS.items():
        if in_epochs in given and in_steps in given:
            raise ValueError(
                f"{given[in_epochs]}: says in epochs what {given[in_steps]} says in steps; leave "
                "out one of them"
            )


def listed(arguments: Sequence[str], schema: type) -> list[str]:
    """Turn ``lora=FILE`` and ``lora_scale=0.6,0.8`` into lists, for keys outside of groups.

    Hydra accepts no single value for a list, and would start a run for each of several.
    """
    lists = [key for key, kind in all_keys(schema).items() if kind == "list" and "." not in key]
    single = re.compile(rf"^({'|'.join(lists)})=(?!\[)(.*)", re.DOTALL)
    return [single.sub(r"\1=[\2]", item) for item in arguments]


def listed_roots(arguments: Sequence[str]) -> list[str]:
    """Turn ``data.root=[a,b]`` into entries of ``data.roots``, which alone holds several folders.

    Raises:
        ValueError: If an entry is no path.
    """
    found: list[str] = []
    for item in arguments:
        key, _, value = item.partition("=")
        if key != "data.root" or not value.startswith("["):
            found.append(item)
            continue
        try:
            roots = OverridesParser.create().parse_override(item).value()
        except HydraException:
            found.append(item)  # Hydra will meet it again, and say so
            continue
        if not isinstance(roots, list) or not roots or not all(map(_is_path, roots)):
            raise ValueError(f"{item}: must be paths of folders, such as [photos,more]")
        entries = ",".join(f"{{path:{quoted(str(root))}}}" for root in roots)
        found += ["data.root=null", f"data.roots=[{entries}]"]
    return found


def _is_path(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def written_where_it_lies(arguments: Sequence[str]) -> list[str]:
    """Make ``sweep=FOLDER`` write into that folder.

    Hydra creates a folder of its own, with a log, before any config is read.
    """
    given = {_key(argument): argument for argument in arguments}
    folder = _path_of(given.get("sweep", "sweep="))
    if not folder or not Path(folder).is_dir():
        return list(arguments)
    here = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    return [*arguments, *here, "hydra/job_logging=none"]


def opened_shortcuts(arguments: Sequence[str]) -> list[str]:
    """Expand ``data.cache=off`` to its ``mode``, ``evaluation.face=none`` to its ``name``.

    And ``run_dir`` to Hydra's folder too, so that its files are in the same folder. Hydra cannot
    set a group by one value, nor take its folder from a key that differs in each run of a sweep.
    """
    scorers = r"^evaluation\.(face|clip|attributes|image|aesthetic)=(?!\{)"
    opened = [re.sub(r"^data\.cache=(?!\{)", "data.cache.mode=", item) for item in arguments]
    opened = [re.sub(scorers, r"evaluation.\1.name=", item) for item in opened]
    if set(MULTIRUN) & set(arguments):
        return opened
    return [re.sub(r"^run_dir=", "hydra.run.dir=", item) for item in opened]


def resumed_arguments(arguments: Sequence[str]) -> list[str]:
    """Make ``resume=RUN_FOLDER`` write into that folder, where the run's own config is read later.

    Hydra creates its folder before any config is read.

    Args:
        arguments: The command line without the program's name.

    Raises:
        ValueError: If the folder is not a run folder, or several runs are given.
    """
    given = {_key(argument): argument for argument in arguments}
    folder = _path_of(given.get("resume", "resume="))
    if not folder:
        return list(arguments)
    several = [item for item in arguments if item in MULTIRUN or item.startswith("sweep=")]
    if several:
        raise ValueError(f"resume={folder}: continues one run; leave out {several[0]}")
    if folder == LATEST and not Path(folder).exists():
        folder = latest_run(Path(OUTPUTS)).as_posix()
        print(f"{LATEST}: resume={folder}", file=sys.stderr)
    if not (Path(folder) / RUN_CONFIG).is_file():
        raise ValueError(
            f"resume={folder}: not a run folder (it has no {RUN_CONFIG}); give the folder "
            "that a run wrote, such as outputs/2026-01-31/12-00-00"
        )
    given["resume"] = f"resume={quoted(folder)}"  # a cell's folder holds "="
    if given.pop("hydra.run.dir", None):
        raise ValueError(f"resume={folder}: continues in that folder; leave out hydra.run.dir")
    here = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null", "hydra.mode=RUN"]
    return [*given.values(), *here]


def _path_of(item: str) -> str:
    """The path that an override names, without the quotes and escapes of Hydra; empty: none."""
    try:
        value = OverridesParser.create().parse_override(item).value()
    except HydraException:  # Hydra will meet it again, and say so
        value = item.partition("=")[2]
    return "" if value is None else str(value)


def latest_run(outputs: Path) -> Path:
    """The folder of the run that was started last, below ``outputs``.

    Raises:
        ValueError: If there is none.
    """
    records = [*outputs.glob(f"*/{RUN_CONFIG}"), *outputs.glob(f"*/*/{RUN_CONFIG}")]
    if not records:
        raise ValueError(
            f"resume={LATEST}: {outputs}/ holds no run; give the folder that a run wrote"
        )
    return max(records, key=lambda path: path.stat().st_mtime_ns).parent


def opened_options(arguments: Sequence[str], schema: type) -> list[str]:
    """Allow ``optim.options.eps=1e-6`` or ``optim.options={eps:1e-6}`` to add keys of no file.

    Options are checked against the signature later; Hydra refuses keys that no file has.
    """
    open_keys = [key for key, kind in all_keys(schema).items() if kind == "dict"]
    prefixes = tuple(f"{key}{then}" for key in open_keys for then in (".", "={"))
    return [f"++{item}" if item.startswith(prefixes) else item for item in arguments]


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Move ``--flags`` before the overrides, which Hydra's parser needs in one sequence."""
    flags: list[str] = []
    overrides: list[str] = []
    takes_value = False
    for item in arguments:
        is_flag = item.startswith("-")
        (flags if is_flag or takes_value else overrides).append(item)
        takes_value = is_flag and item in FLAGS_WITH_VALUE
    return [*flags, *overrides]


def named_by_sweep(arguments: Sequence[str]) -> list[str]:
    """Name the folders of a sweep by its swept keys only.

    Hydra names them by all overrides, except keys that a config lists in advance.
    """
    if not set(MULTIRUN) & set(arguments):
        return list(arguments)
    overrides = [item for item in arguments if "=" in item and not item.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return list(arguments)  # Hydra will meet it again, and say so
    shared = [item.key_or_group for item in parsed if not item.is_sweep_override()]
    excluded = "hydra.job.config.override_dirname.exclude_keys"
    return [*arguments, f"{excluded}=[{','.join(dict.fromkeys(shared))}]"]


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")
