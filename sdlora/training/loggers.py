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


class RunTensorBoard(TensorBoardLogger):
    """Curves in ``tensorboard/``; after a failure the next number goes into a new events file.

    Args:
        folder: The run folder.
        progress: Says once what fails.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False)
        self._progress = progress

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        self.tolerant(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Log settings and final numbers."""
        self.tolerant(super().log_hyperparams, params, metrics, step)

    def save(self) -> None:
        """Write what waits."""
        self.tolerant(super().save)

    def finalize(self, status: str) -> None:
        """Write what waits, and close the file."""
        self.tolerant(super().finalize, status)

    def tolerant(self, write: Any, *values: Any, **named: Any) -> None:
        """Call a function that writes; where it fails, its writer is let go of."""
        with self._progress.tolerating("tensorboard"):
            try:
                write(*values, **named)
            except Exception:
                self._experiment = None
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
