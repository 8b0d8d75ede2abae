"""The main function of ``train.py`` and ``evaluate.py``: Hydra, and errors in one message."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdlora.cli.arguments import prepared_arguments
from sdlora.cli.composition import register_evaluate, register_schemas
from sdlora.cli.composition_errors import explain
from sdlora.cli.own_files import with_own_files
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.rules import ConfigError
from sdlora.runtime.log_file import libraries_in_log
from sdlora.runtime.places import CONF
from sdlora.runtime.program import INTERRUPTED, TRACEBACK, USER_ERROR, report, settle_libraries


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
        sys.argv[1:] = prepared_arguments(with_own_files(arguments), schema)
        with libraries_in_log():
            _hydra_main(task, config_name)()
        return
    failed: list[BaseException] = []
    try:
        arguments = sys.argv[1:] = prepared_arguments(with_own_files(arguments), schema)
        # Hydra hands errors on instead of printing its own
        with _environment(TRACEBACK, "1"), _named_folder(), libraries_in_log():
            _hydra_main(_reporting(task, schema, failed), config_name)()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not any(error is reported for reported in failed):
            sys.exit(_report(error, schema, arguments))
    if failed:
        sys.exit(USER_ERROR)


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


@contextmanager
def _named_folder() -> Iterator[None]:
    """Name key and remedy of a folder that Hydra, which makes it, cannot make.

    Raises:
        ConfigError: In place of the system's error; the runs report theirs themselves.
    """
    try:
        yield
    except OSError as error:
        # a sweep makes its folder itself, and hands on its cells' errors
        is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
        if error.filename is None or is_sweep:
            raise
        raise ConfigError(
            f"run_dir={error.filename}: cannot be written to ({error.strerror}); choose another "
            "folder with hydra.run.dir=FOLDER"
        ) from error


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
