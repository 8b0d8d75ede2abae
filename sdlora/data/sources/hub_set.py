"""A Hugging Face data set: named by an id or a local path, and loaded without running its code."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.config.data import HubConfig
from sdlora.data.sources.picture_source import DataError

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set with its split and columns.

    Attributes:
        path: An id on the Hub (``OWNER/NAME``), or a local path: a ``.parquet`` or ``.arrow`` file,
            a folder of them, of pictures with ``metadata.jsonl``, or one of ``save_to_disk``.
        config: Split, revision and columns.
        default_caption: Caption of rows without one; ``None`` makes that a finding.
    """

    path: str
    config: HubConfig
    default_caption: str | None = None

    @property
    def folder(self) -> Path | None:
        """Base of relative paths of the rows; ``None`` for a set on the Hub."""
        local = Path(self.path).expanduser().absolute()
        if local.exists():
            return local if local.is_dir() else local.parent
        return None

    def load(self, streaming: bool = False) -> Any:
        """The split: a ``datasets.Dataset``, or an ``IterableDataset`` that stores nothing.

        No code of the set is run: ``datasets`` has read none since its version 4.

        Raises:
            DataError: If the ``datasets`` package is missing or cannot load it.
        """
        datasets, config = datasets_package(), self.config
        local = Path(self.path).expanduser().absolute()
        if config.revision is not None and local.exists():
            raise DataError(
                f"data.hub.revision={config.revision}: {self.path} is local; only sets on the Hub "
                "have revisions"
            )
        options: dict[str, Any] = {"split": config.split, "streaming": streaming}
        try:
            if local.is_file() and local.suffix.casefold() in _BUILDERS:
                builder = _BUILDERS[local.suffix.casefold()]
                return datasets.load_dataset(builder, data_files={"train": str(local)}, **options)
            if any((local / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return self._saved(datasets.load_from_disk(str(local)), streaming)
            if local.is_dir():
                return datasets.load_dataset(str(local), **options)
            if _HUB_ID.fullmatch(self.path) and not local.exists():
                return datasets.load_dataset(self.path, revision=config.revision, **options)
        except DataError:
            raise
        except Exception as error:  # datasets and the readers below it raise nearly anything
            raise self.error(error) from error
        raise DataError(
            f"data.root={self.path}: is neither an id OWNER/NAME on the Hub nor a folder, .parquet "
            "or .arrow file that is there"
        )

    def error(self, cause: BaseException) -> DataError:
        """A ``DataError`` for an error of ``datasets``, in one line."""
        innermost = cause.__cause__ or cause
        reason = f"{' '.join(str(innermost).split())[:400]} ({type(innermost).__name__})"
        return DataError(f"data.root={self.path}, data.hub.split={self.config.split}: {reason}")

    def _saved(self, saved: Any, streaming: bool) -> Any:
        split = self.config.split
        splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
        if split not in splits:
            raise DataError(
                f"data.hub.split={split}: {self.path} has the splits {', '.join(splits)}"
            )
        rows = splits[split]
        return rows.to_iterable_dataset() if streaming else rows


def datasets_package() -> Any:
    """The optional package ``datasets``; ``DataError`` with the remedy if it is missing."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            'data.source=hub: needs the datasets package; pip install "sdlora[hub]"'
        ) from error
    return datasets
