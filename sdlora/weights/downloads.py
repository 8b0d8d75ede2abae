"""Download of weight files and of models of the Hub, checked against known sizes and hashes."""

import bz2
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlora.runtime.files import atomic_path
from sdlora.runtime.progress import Progress
from sdlora.weights.face_files import BY_HAND, SOURCES, Source, weights_folder
from sdlora.weights.hub_models import (
    PIPELINE,
    HubError,
    HubModel,
    cached_folder,
    chosen_files,
    parts_in_index,
)
from sdlora.weights.soundness import Copy, fault

TIMEOUT_S = 20.0
"""Seconds without an answer after which a download has failed."""

_CHUNK = 2**20
_MIB = 2**20
_HUB = "https://huggingface.co/"


class DownloadError(ValueError):
    """A file that could not be got; the message gives the reason."""


def fetch_face_file(name: str, progress: Progress) -> str:
    """Download one of deepface's weight files to where deepface looks for it.

    Returns:
        How it was checked.

    Raises:
        DownloadError: If none of its addresses gives it whole.
    """
    target = weights_folder() / name
    source = SOURCES.get(name)
    if source is None:
        raise DownloadError(
            f"{name}: is on Google Drive; get {BY_HAND[name]} with a browser, and put it at "
            f"{target}"
        )
    failed = []
    for url in source.urls:
        try:
            return _download(url, target, source, progress)
        except (OSError, EOFError, DownloadError) as error:
            failed.append(f"{url}: {_reason(error)}")
    raise DownloadError(f"{name}: {'; '.join(failed)}")


def _download(url: str, target: Path, source: Source, progress: Progress) -> str:
    """Write the file of an address, whole and checked, or not at all."""
    good = source.good or _copy_on_hub(url)
    request = urllib.request.Request(url, headers={"User-Agent": "sdlora"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer,
        atomic_path(target) as temporary,
    ):
        length = int(answer.headers.get("Content-Length") or 0)
        with temporary.open("wb") as file:
            for block in _unpacked(_blocks(answer, length, target.name, progress), source.packing):
                file.write(block)
        if (what := fault(temporary, good)) is not None:
            raise DownloadError(what)
        size = temporary.stat().st_size
    is_hashed = bool(good) and all(copy.sha256 is not None for copy in good)
    how = "size and SHA-256 are the known ones" if is_hashed else "no checksum of it is known"
    return f"{size / _MIB:.1f} MiB from {url}; {how}"


def _blocks(answer: Any, length: int, name: str, progress: Progress) -> Iterator[bytes]:
    """The bytes of an answer, which must be as many as it announced."""
    bar = progress.add(f"{name}, MiB", max(1, length // _MIB) if length else None)
    received = 0
    try:
        while block := answer.read(_CHUNK):
            received += len(block)
            progress.update(bar, received // _MIB)
            yield block
    finally:
        progress.remove(bar)
    if received < length:
        raise DownloadError(f"broke off after {received} of {length} bytes")


def _unpacked(blocks: Iterator[bytes], packing: str | None) -> Iterator[bytes]:
    if packing is None:
        yield from blocks
        return
    decompressor = bz2.BZ2Decompressor()
    for block in blocks:
        yield decompressor.decompress(block)
    if not decompressor.eof:
        raise DownloadError("is half an archive, a download that broke off")


def _copy_on_hub(url: str) -> Sequence[Copy]:
    """Size and SHA-256 that the Hub tells of a large file of its own."""
    if not url.startswith(_HUB):
        return ()
    from huggingface_hub import get_hf_file_metadata

    with _errors_of_hub():
        found = get_hf_file_metadata(url, timeout=TIMEOUT_S)
    is_sha256 = found.etag is not None and len(found.etag) == 64
    return (Copy(found.size, found.etag),) if found.size and is_sha256 else ()


def fetch_model(model: HubModel, progress: Progress) -> str:
    """Download the files of a model that a run needs into the Hub's cache.

    Returns:
        How many there are, and how they were checked.

    Raises:
        DownloadError: If the Hub does not give it, or not what a run needs.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with _errors_of_hub():
        found = HfApi().model_info(
            model.name, revision=model.revision, files_metadata=True, timeout=TIMEOUT_S
        )
        files = {each.rfilename: each for each in found.siblings or ()}
        parts = None
        if model.kind == PIPELINE and "model_index.json" in files:
            parts = parts_in_index(_index(model))
        names = chosen_files(model, files, parts)
        before = cached_folder(model)
        for number, name in enumerate(names, start=1):
            size = files[name].size or 0
            progress.print(f"  {number}/{len(names)} {name} ({size / _MIB:.1f} MiB)")
            lfs = files[name].lfs
            good = [Copy(size, lfs.sha256 if lfs else None)] if size else []
            old = None if before is None else before / name
            is_broken = old is not None and old.is_file() and fault(old, good) is not None
            path = Path(
                hf_hub_download(model.name, name, revision=model.revision, force_download=is_broken)
            )
            if (what := fault(path, good)) is not None and size:
                raise DownloadError(f"{name} {what}")
    total = sum(files[name].size or 0 for name in names)
    return f"{len(names)} files, {total / 2**30:.2f} GiB; sizes and SHA-256 are those of the Hub"


def _index(model: HubModel) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(model.name, "model_index.json", revision=model.revision)
    found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return found


@contextmanager
def _errors_of_hub() -> Iterator[None]:
    """Errors of the Hub's client as one sentence."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except DownloadError:
        raise
    except OfflineModeIsEnabled as error:
        raise DownloadError("HF_HUB_OFFLINE is set; unset it to fetch") from error
    except GatedRepoError as error:
        raise DownloadError(
            "is gated: accept its terms on its page, then log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            "there is no such model on the Hub, or it is private; check the id"
        ) from error
    except HubError as error:
        raise DownloadError(str(error)) from error
    except Exception as error:  # of whatever library the client uses for the network
        raise DownloadError(f"{type(error).__name__}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
