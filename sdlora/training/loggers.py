"""Lightning's loggers of a run, whose failures end no training."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from sdlora.runtime.program import message_of
from sdlora.runtime.progress import Progress


def require_logger(name: str) -> None:
    """Check that the package of a logger is installed.

    Raises:
        ValueError: Naming the command that installs it.
    """
    if name == "wandb" and find_spec("wandb") is None:
        raise ValueError(
            f"logger.names={name}: needs a package that is not installed; "
            'pip install "sdlora[wandb]"'
        )


class LoggerError(AttributeError):
    """A logger that cannot begin; Lightning, which asks for its ``experiment``, goes on then."""


_GROUPS = {"val/": "loss_held_out/", "train/": "training/", "eval/": "scores/", "base/": "scores/"}
_LOSSES = {"train/loss": "loss/training", "val/loss": "loss/held_out"}
_ENDS = ("_low", "_high")


def tensorboard_tag(name: str) -> str | None:
    """The tag of a number, whose first word is its group; ``None``: it is shown nowhere.

    TensorBoard sorts groups by name: the loss comes first. Ends of intervals have a group of their
    own, and Lightning's ``epoch`` is ``train/epoch`` already.
    """
    if name == "epoch":
        return None
    if name in _LOSSES:
        return _LOSSES[name]
    for group, shown in _GROUPS.items():
        if name.startswith(group):
            is_end = shown == "scores/" and name.endswith(_ENDS)
            return ("scores_intervals/" if is_end else shown) + name.removeprefix(group)
    return name


class RunTensorBoard(TensorBoardLogger):
    """Curves in ``tensorboard/``; after a failure the next number goes into a new events file.

    The base's scores are a run of their own, ``tensorboard/base``, so that each score's chart has
    the base's line in it.

    Args:
        folder: The run folder.
        progress: Says once what fails.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False)
        self._progress = progress
        self._base = TensorBoardLogger(
            folder, name="tensorboard", version="base", default_hp_metric=False
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        tagged = {name: tag for name in metrics if (tag := tensorboard_tag(name)) is not None}
        of_base = {tag: metrics[name] for name, tag in tagged.items() if name.startswith("base/")}
        own = {tag: metrics[name] for name, tag in tagged.items() if not name.startswith("base/")}
        if own:
            self.tolerant(super().log_metrics, own, step)
        if of_base:
            self.tolerant(self._log_base, of_base, step)

    def _log_base(self, values: Mapping[str, float], step: int | None) -> None:
        self._base.log_metrics(values, step)
        self._base.experiment.flush()

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Log settings and final numbers."""
        self.tolerant(super().log_hyperparams, params, metrics, step)

    def save(self) -> None:
        """Write what waits."""
        self.tolerant(super().save)

    def finalize(self, status: str) -> None:
        """Write what waits, and close the files."""
        self.tolerant(super().finalize, status)
        if self._base._experiment is not None:
            self.tolerant(self._base.experiment.close)
            self._base._experiment = None

    def tolerant(self, write: Any, *values: Any, **named: Any) -> None:
        """Call a function that writes; where it fails, its writer is let go of."""
        with self._progress.tolerating("tensorboard"):
            try:
                write(*values, **named)
            except Exception:
                self._experiment = self._base._experiment = None
                raise


class RunCsv(CSVLogger):
    """Curves in ``csv/``, of each further start in a folder there; failures are said once.

    Lightning begins a file anew, and would remove the curves of the start before.

    Args:
        folder: The run folder.
        progress: Says it.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        earlier = len(list((folder / "csv").rglob("metrics.csv")))
        super().__init__(folder, name="csv", version=f"start_{earlier + 1}" if earlier else "")
        self._progress = progress

    def log_metrics(  # type: ignore[override]
        self, metrics: Mapping[str, float], step: int | None = None
    ) -> None:
        """Log numbers of a step."""
        with self._progress.tolerating("csv"):
            super().log_metrics(metrics, step)  # type: ignore[arg-type]

    def save(self) -> None:
        """Write what waits."""
        with self._progress.tolerating("csv"):
            super().save()

    def finalize(self, status: str) -> None:
        """Write what waits."""
        with self._progress.tolerating("csv"):
            super().finalize(status)


class RunWandb(WandbLogger):
    """Curves of Weights & Biases in ``wandb/``, of each start as a run of its own.

    Nothing is sent unless the environment has ``WANDB_MODE=online``: its files can be sent later.

    Args:
        folder: The run folder, whose name is that of the group of its starts.
        progress: Says once what fails.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        quiet = {"console": "off", "silent": True, "disable_git": True, "save_code": False}
        super().__init__(
            name=folder.name,
            save_dir=folder,
            project="sdlora",
            group=folder.name,
            mode=os.environ.get("WANDB_MODE") or "offline",
            settings=quiet,
        )
        self._wandb_init.pop("anonymous", None)  # wandb warns of it, whatever its value
        self._progress = progress

    @property
    def experiment(self) -> Any:
        """The run of Weights & Biases, begun when it is first asked for.

        Raises:
            LoggerError: If it cannot begin.
        """
        try:
            return super().experiment
        except Exception as error:
            raise LoggerError(message_of(error)) from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        with self._progress.tolerating("wandb"):
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any, *more: Any, **named: Any) -> None:
        """Log settings."""
        with self._progress.tolerating("wandb"):
            super().log_hyperparams(params)

    def log_grid(self, grid: Image.Image, step: int) -> None:
        """Log the grid of pictures of a step."""
        with self._progress.tolerating("wandb"):
            self.log_image("samples", [grid], step)

    def finalize(self, status: str) -> None:
        """Write what waits, and end this start's run."""
        if self._experiment is None:  # it could not begin
            return
        with self._progress.tolerating("wandb"):
            super().finalize(status)
            self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = None
