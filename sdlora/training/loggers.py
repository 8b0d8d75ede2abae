"""Lightning's loggers of a run, whose failures end no training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sdlora.runtime.progress import Progress


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
