"""Stream of a Hugging Face data set, for sets that do not fit on the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice
from typing import Any

from PIL import Image

from sdlora.data.pictures.decode import WHITE, read_picture
from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.hub_rows import open_rows
from sdlora.data.sources.hub_set import HubSet
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.randomness import derive_seed

_FINDINGS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class StreamedPicture:
    """One row of a stream.

    Attributes:
        picture: Its facts; the name gives its place in the stream.
        image: Mode ``RGB``, upright.
        next_start: ``start`` of a stream that continues after it.
    """

    picture: Picture
    image: Image.Image
    next_start: int


class StreamedSource:
    """The rows of a Hugging Face data set in a shuffled order, read forward and never stored.

    Row ``n`` of an epoch is a function of the seed, the epoch and ``n``, in any process.

    Args:
        hub_set: Which rows, and which columns of them.
        seed: The run's seed.
        shuffle_buffer: Size of the shuffle buffer, in undecoded rows; 1 keeps the stored order.
        on_error: ``raise`` for a row that cannot be used, or ``skip`` and count it.
        background: Colour under transparent parts, as ``#rrggbb``.

    Attributes:
        findings: The first thousand skipped rows.
        num_passed_over: Number of skipped rows.

    Raises:
        DataError: If the set cannot be opened or has no such columns.
    """

    def __init__(
        self,
        hub_set: HubSet,
        *,
        seed: int,
        shuffle_buffer: int,
        on_error: str = "raise",
        background: str = WHITE,
    ) -> None:
        self._rows = open_rows(hub_set, streaming=True)
        self._seed = seed
        self._shuffle_buffer = shuffle_buffer
        self._skips = on_error == "skip"
        self._background = background
        self.findings: list[Finding] = []
        self.num_passed_over = 0

    @cached_property
    def num_rows(self) -> int:
        """Rows of an epoch, usable or not; counted by reading if the set does not say it."""
        return self._rows.count()

    def samples(self, epoch: int, start: int = 0) -> Iterator[StreamedPicture]:
        """The usable rows of an epoch, from row ``start`` of its order.

        Earlier rows are read again but not decoded.

        Raises:
            DataError: For a row that cannot be used, unless rows are skipped; if no row can be
                used; if reading fails; if the set has another number of rows than it says.
        """
        num_usable, end = 0, start
        for place, row in enumerate(self._rows.each(self._ordered(epoch).skip(start)), start):
            file = self._rows.path(row).replace("\\", "/").rpartition("/")[2]
            name = f"row {place} of epoch {epoch}" + (f" ({file})" if file else "")
            sample, end = self._read(row, name, place), place + 1
            if sample is not None:
                num_usable += 1
                yield sample
        if start == 0 and num_usable == 0:
            raise DataError(f"data.root={self._rows.hub_set.path}: no row can be used")
        if end != max(start, self.num_rows):
            raise DataError(
                f"data.root={self._rows.hub_set.path}: says that it has {self.num_rows} rows, but "
                f"has {end}; set data.hub.streaming=false"
            )

    def _ordered(self, epoch: int) -> Any:
        if self._shuffle_buffer == 1:
            return self._rows.rows
        # A seed for each epoch, not set_epoch(): behind skip() that leaves the files unshuffled,
        # so that a resumed epoch would go on in another order.
        order = derive_seed(self._seed, "stream_order", epoch)
        return self._rows.rows.shuffle(seed=order, buffer_size=self._shuffle_buffer)

    def _read(self, row: dict[str, Any], name: str, place: int) -> StreamedPicture | None:
        found = self._rows.read(row, name)
        faults = found.findings
        if found.picture is not None:
            try:
                image = read_picture(BytesIO(found.data), self._background)
                return StreamedPicture(found.picture, image, place + 1)
            except PictureError as error:
                faults = [Finding(name, "unreadable", str(error))]
        if not self._skips:
            listing = "; ".join(str(fault) for fault in faults)
            raise DataError(f"{listing} (data.on_error=skip skips such rows)")
        self.num_passed_over += 1
        self.findings += faults[: max(0, _FINDINGS_KEPT - len(self.findings))]
        return None


class Head:
    """The first rows of a stream, in memory, for the data sheet and references.

    Args:
        source: The stream.
        num_rows: Number of usable rows.
    """

    def __init__(self, source: StreamedSource, num_rows: int) -> None:
        self._rows = list(islice(source.samples(0), num_rows))
        self.pictures = [row.picture for row in self._rows]
        self.findings = list(source.findings)
        self.notes = [f"the set is streamed; only its first {len(self._rows)} rows are checked"]

    def image(self, index: int) -> Image.Image:
        """Row ``index``, mode ``RGB``, upright."""
        return self._rows[index].image

    def mask(self, index: int) -> Image.Image | None:
        """Rows have no mask."""
        return None
