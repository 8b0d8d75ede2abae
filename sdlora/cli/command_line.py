"""The command line: arguments for Hydra, composition, typed config, error messages."""

import copy
import functools
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TypeVar, get_type_hints

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdlora.cli.composition_errors import explain, file_that_gives, unknown_key, unknown_keys
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import all_keys, open_groups
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF
from sdlora.runtime.program import INTERRUPTED, TRACEBACK, USER_ERROR, report, settle_libraries

Config = TypeVar("Config")

MULTIRUN = ("-m", "--multirun")

FLAGS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp"),
    *("--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"),
)
"""Hydra's flags that take the following word."""


def run(task: Callable[[DictConfig], None], config_name: str, schema: type) -> None:
    """Compose the config, run ``task`` with it, and report errors in one message.

    Args:
        task: Function of the composed config.
        config_name: Root file in ``conf/``.
        schema: Its dataclass, to suggest keys from.
    """
    register_schemas()
    if schema is EvaluateConfig:
        register_evaluate()
    settle_libraries()
    arguments = sys.argv[1:]
    if os.environ.get(TRACEBACK) == "1":
        sys.argv[1:] = prepared_arguments(arguments, schema)
        _hydra_main(task, config_name)()
        return
    failed: list[BaseException] = []
    try:
        arguments = sys.argv[1:] = prepared_arguments(arguments, schema)
        with _environment(TRACEBACK, "1"):  # Hydra hands errors on instead of printing its own
            _hydra_main(_reporting(task, schema, failed), config_name)()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not any(error is reported for reported in failed):
            sys.exit(_report(error, schema, arguments))
    if failed:
        sys.exit(USER_ERROR)


def register_schemas() -> None:
    """Register the typed schemas, which the defaults lists name first."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=schema_node(TrainConfig))
    store.store(name="evaluate_schema", node=EvaluateConfig)


def register_evaluate() -> None:
    """Register the root file of ``evaluate.py`` and its groups.

    With ``conf/`` itself Hydra would look for ``lora=FILE`` among the options of ``conf/lora``, and
    ``--help`` would list groups that ``evaluate.py`` does not have.
    """
    store = ConfigStore.instance()
    store.store(name="evaluate", node=OmegaConf.load(CONF / "evaluate.yaml"))
    for group in (*EvaluateConfig.GROUPS, "hydra/help"):
        for path in sorted((CONF / group).glob("*.yaml")):
            if f"{group}/{path.stem}" not in EvaluateConfig.REFUSED:
                store.store(name=path.stem, node=OmegaConf.load(path), group=group)


def schema_node(schema: type) -> DictConfig:
    """A schema as the node that configs are merged into; groups with free names accept any name."""
    node = OmegaConf.structured(schema)
    for group, (field, _) in open_groups(schema).items():
        node[group] = OmegaConf.structured(get_type_hints(schema)[group])
        OmegaConf.set_struct(node[group], False)
        del node[group][field]
    return node


def to_typed(composed: DictConfig, schema: type[Config]) -> Config:
    """Turn a composed config into its dataclass; every check of the schema runs here, once.

    Raises:
        ConfigError: If it has an unknown key, or an invalid value.
    """
    # ${times:2,${lora.r}} in conf/; here, as workers of a sweep are given a composed config
    OmegaConf.register_new_resolver("times", operator.mul, replace=True)
    for key, value in unknown_keys(composed, schema).items():
        file = file_that_gives(key)
        where = f" in {file}.yaml" if file else ""
        raise ConfigError(unknown_key(key, value, schema, [CONF], where))
    config = OmegaConf.to_object(_with_groups_by_name(composed, schema))
    assert isinstance(config, schema), "the root file's defaults begin with the schema"
    return config


def _with_groups_by_name(composed: DictConfig, schema: type) -> DictConfig:
    """A copy in which groups with free names are typed, in the field for them."""
    whole = copy.deepcopy(composed)
    for group, (field, kind) in open_groups(schema).items():
        node = whole[group]
        own = {item.name for item in fields(get_type_hints(schema)[group])}
        given = {name: node[name] for name in node if name not in own}
        for name, value in given.items():  # in its place, so that an error gives its whole key
            node[name] = OmegaConf.structured(kind)
            node[name].merge_with(value)
        typed = {name: OmegaConf.to_object(node[name]) for name in given}
        for name in given:
            del node[name]
        node[field] = typed
    return whole


def prepared_arguments(arguments: Sequence[str], schema: type) -> list[str]:
    """The command line rewritten for Hydra, for each thing that Hydra cannot do itself.

    Raises:
        ValueError: If ``resume=`` does not name a run folder.
    """
    given = opened_shortcuts(arguments)
    if schema is EvaluateConfig:
        given = written_where_it_lies(listed(given, schema))
    else:
        given = resumed_arguments(given)
    ordered = flags_first(opened_options(given, schema))
    return named_by_sweep(ordered) if schema is EvaluateConfig else ordered


def listed(arguments: Sequence[str], schema: type) -> list[str]:
    """Turn ``lora=FILE`` and ``lora_scale=0.6,0.8`` into lists, for keys outside of groups.

    Hydra accepts no single value for a list, and would start a run for each of several.
    """
    lists = [key for key, kind in all_keys(schema).items() if kind == "list" and "." not in key]
    single = re.compile(rf"^({'|'.join(lists)})=(?!\[)(.*)", re.DOTALL)
    return [single.sub(r"\1=[\2]", item) for item in arguments]


def written_where_it_lies(arguments: Sequence[str]) -> list[str]:
    """Make ``sweep=FOLDER`` write into that folder.

    Hydra creates a folder of its own, with a log, before any config is read.
    """
    given = {_key(argument): argument for argument in arguments}
    folder = given.get("sweep", "").partition("=")[2].strip("\"'")
    if not folder or not Path(folder).is_dir():
        return list(arguments)
    here = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    return [*arguments, *here, "hydra/job_logging=none"]


def opened_shortcuts(arguments: Sequence[str]) -> list[str]:
    """Expand ``data.cache=off`` to its ``mode``, ``evaluation.face=none`` to its ``name``.

    And ``run_dir`` to Hydra's folder too, so that ``.hydra/``, which is needed to resume, is in the
    same folder. Hydra cannot set a group by one value, nor take its folder from a key that differs
    in each run of a sweep.
    """
    scorers = r"^evaluation\.(face|clip|image|aesthetic)=(?!\{)"
    opened = [re.sub(r"^data\.cache=(?!\{)", "data.cache.mode=", item) for item in arguments]
    opened = [re.sub(scorers, r"evaluation.\1.name=", item) for item in opened]
    if set(MULTIRUN) & set(arguments):
        return opened
    return [re.sub(r"^run_dir=", "hydra.run.dir=", item) for item in opened]


def resumed_arguments(arguments: Sequence[str]) -> list[str]:
    """Put the overrides of the run of ``resume=`` in front of the given ones.

    So ``resume=RUN_FOLDER`` alone is enough, and continues in that folder; when Hydra reads a
    config it has parsed its overrides already.

    Args:
        arguments: The command line without the program's name.

    Raises:
        ValueError: If the folder is not a run folder, or several runs are given.
    """
    given = {_key(argument): argument for argument in arguments}
    folder = given.get("resume", "resume=").partition("=")[2].strip("\"'")
    if not folder or folder == "null":
        return list(arguments)
    several = [item for item in arguments if item in MULTIRUN or item.startswith("sweep=")]
    if several:
        raise ValueError(f"resume={folder}: continues one run; leave out {several[0]}")
    stored = Path(folder) / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise ValueError(
            f"resume={folder}: not a run folder (it has no .hydra/overrides.yaml); give the folder "
            "that a run wrote, such as outputs/2026-01-31/12-00-00"
        )
    before = {_key(line): line for line in map(str, OmegaConf.load(stored))}
    given["resume"] = f"resume={quoted(folder)}"  # a cell's folder holds "="
    if given.pop("hydra.run.dir", None):
        raise ValueError(f"resume={folder}: continues in that folder; leave out hydra.run.dir")
    here = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null", "hydra.mode=RUN"]
    return [*(before | given).values(), *here]


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


def _hydra_main(task: Callable[[DictConfig], None], config_name: str) -> Callable[[], None]:
    folder = None if config_name == "evaluate" else str(CONF)
    return hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(task)


def _reporting(
    task: Callable[[DictConfig], None], schema: type, failed: list[BaseException]
) -> Callable[[DictConfig], None]:
    """``task`` with its error reported, so that the other runs of a sweep continue."""

    @functools.wraps(task)
    def reporting(composed: DictConfig) -> None:
        settle_libraries()  # a launcher's process begins here
        try:
            task(composed)
        except Exception as error:
            job = HydraConfig.get()
            arguments = OmegaConf.to_container(job.overrides.task, resolve=False)
            assert isinstance(arguments, list)
            if job.mode == RunMode.MULTIRUN:
                print(f"run {job.sweep.subdir}:", file=sys.stderr)
            _report(error, schema, arguments)
            failed.append(error)
            if job.mode == RunMode.MULTIRUN:
                raise  # so that launchers in other processes know

    return reporting


def _report(error: Exception, schema: type, arguments: Sequence[str]) -> int:
    if isinstance(error, HydraException | OmegaConfBaseException):
        message = explain(error, schema, arguments, [*_config_dirs(arguments), CONF])
    elif isinstance(error, yaml.YAMLError):
        message = f"a config file cannot be read: {' '.join(str(error).split())}"
    else:
        return report(error)
    return report(ConfigError(message))


def _config_dirs(arguments: Sequence[str]) -> list[Path]:
    folders = []
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else following))
    return folders


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def quoted(value: str) -> str:
    """A value for the command line, quoted if Hydra would parse it otherwise."""
    if re.fullmatch(r"[\w./:-]+", value):
        return value
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"
