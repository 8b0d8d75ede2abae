"""Filters that leave pictures out: size, aspect, file size, duplicates, sharpness."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sdlora.config.data_filters import FiltersConfig
from sdlora.data.pictures.picture import REMOVED, Finding, Picture, quoted
from sdlora.data.selection.measures import PHASH, SHARPNESS, Measures, unreadable

MIB = 2**20


def apply_filters(
    pictures: Sequence[Picture], filters: FiltersConfig, measures: Measures
) -> tuple[list[int], list[Finding]]:
    """Choose which pictures to keep.

    Cheap filters come first: pictures are decoded only for ``near_duplicates`` and
    ``min_sharpness``, and only those that the other filters keep.

    Args:
        pictures: All of them.
        filters: The filters.
        measures: Values of pictures that must be decoded.

    Returns:
        Indices kept, in order; and a finding for each of the others, of severity ``removed``, or
        ``error`` if it could not be decoded.
    """
    found: dict[int, Finding] = {}
    for index, picture in enumerate(pictures):
        faults = _header_faults(picture, filters)
        if faults:
            kind, _ = faults[0]
            shape = "x".join(map(str, picture.size))
            reason = f"is {shape} pixels, " + " and ".join(fault for _, fault in faults)
            found[index] = _removed(picture, kind, reason)
        elif filters.max_file_mib is not None:
            found |= _file_fault(index, picture, filters.max_file_mib)
    if filters.exact_duplicates:
        found |= _exact_duplicates(pictures, _rest(pictures, found))
    found |= _measured_faults(pictures, _rest(pictures, found), filters, measures)
    return _rest(pictures, found), [found[index] for index in sorted(found)]


def near_duplicates(hashes: NDArray[np.uint64], max_distance: int) -> dict[int, int]:
    """Hashes that are near an earlier kept one.

    Each hash in turn is kept unless a kept one lies within ``max_distance``: so every removed
        picture has a similar kept one, and a chain of small differences does not
    merge pictures that differ much.

    Args:
        hashes: 64 bits each, ``[n]``, best first.
        max_distance: Largest Hamming distance of two that are alike.

    Returns:
        Index of each hash left out -> index of the nearest kept one before it.
    """
    kept = np.empty_like(hashes)
    places = np.empty(len(hashes), dtype=np.int64)
    num_kept, near = 0, {}
    for index, own in enumerate(hashes):
        if num_kept:
            distances = np.bitwise_count(kept[:num_kept] ^ own)
            nearest = distances.argmin()
            if distances[nearest] <= max_distance:
                near[index] = int(places[nearest])
                continue
        kept[num_kept], places[num_kept] = own, index
        num_kept += 1
    return near


def _header_faults(picture: Picture, filters: FiltersConfig) -> list[tuple[str, str]]:
    """Kind and reason of each filter on the size."""
    width, height = picture.size
    faults = []
    for what, value, key in (
        ("width", width, "min_width"),
        ("height", height, "min_height"),
        ("area", width * height, "min_area_px"),
    ):
        limit = getattr(filters, key)
        if limit is not None and value < limit:
            faults.append(("too_small", f"its {what} below data.filters.{key}={limit}"))
    aspect = width / height
    if filters.min_aspect is not None and aspect < filters.min_aspect:
        limits = f"{aspect:.3g} below data.filters.min_aspect={filters.min_aspect}"
        faults.append(("aspect", f"its width / height of {limits}"))
    if filters.max_aspect is not None and aspect > filters.max_aspect:
        limits = f"{aspect:.3g} above data.filters.max_aspect={filters.max_aspect}"
        faults.append(("aspect", f"its width / height of {limits}"))
    return faults


def _file_fault(index: int, picture: Picture, max_mib: float) -> dict[int, Finding]:
    if picture.file_bytes <= max_mib * MIB:
        return {}
    reason = f"has {picture.file_bytes / MIB:.3g} MiB, above data.filters.max_file_mib={max_mib}"
    return {index: _removed(picture, "large_file", reason)}


def _exact_duplicates(pictures: Sequence[Picture], indices: Sequence[int]) -> dict[int, Finding]:
    first: dict[str, Picture] = {}
    found = {}
    for index in sorted(indices, key=lambda index: pictures[index].name):
        picture = pictures[index]
        kept = first.setdefault(picture.content, picture)
        if kept is not picture:
            same = f"has the same bytes as {quoted(kept.name)}, which is kept"
            other = ", with another caption" if kept.text != picture.text else ""
            reason = f"{same}{other} (data.filters.exact_duplicates)"
            found[index] = _removed(picture, "same_picture", reason)
    return found


def _measured_faults(
    pictures: Sequence[Picture], indices: list[int], filters: FiltersConfig, measures: Measures
) -> dict[int, Finding]:
    wanted = {PHASH: filters.near_duplicates, SHARPNESS: filters.min_sharpness}
    kinds = [kind for kind, limit in wanted.items() if limit is not None]
    if not kinds or not indices:
        return {}
    facts = measures.of(kinds, indices)
    found = unreadable(pictures, indices, facts)
    indices = [index for index in indices if index not in found]
    if filters.min_sharpness is not None:
        found |= _blurred(pictures, indices, facts[SHARPNESS], filters.min_sharpness)
        indices = [index for index in indices if index not in found]
    if filters.near_duplicates is not None:
        found |= _near_duplicates(pictures, indices, facts[PHASH], filters.near_duplicates)
    return found


def _blurred(
    pictures: Sequence[Picture],
    indices: Sequence[int],
    values: Mapping[str, str],
    least: float,
) -> dict[int, Finding]:
    sharpness = {index: float(values[pictures[index].content]) for index in indices}
    return {
        index: _removed(
            pictures[index],
            "blurred",
            f"has a sharpness of {value:.4g}, below data.filters.min_sharpness={least}",
        )
        for index, value in sharpness.items()
        if value < least
    }


def _near_duplicates(
    pictures: Sequence[Picture],
    indices: Sequence[int],
    values: Mapping[str, str],
    max_distance: int,
) -> dict[int, Finding]:
    found = {}
    for index, (kept, bits) in look_alikes(pictures, indices, values, max_distance).items():
        other = pictures[kept]
        reason = (
            f"looks like {quoted(other.name)} ({'x'.join(map(str, other.size))}), which is kept: "
            f"{bits} of 64 hash bits differ (data.filters.near_duplicates={max_distance})"
        )
        found[index] = _removed(pictures[index], "near_duplicate", reason)
    return found


def look_alikes(
    pictures: Sequence[Picture],
    indices: Sequence[int],
    hashes: Mapping[str, str],
    max_distance: int,
) -> dict[int, tuple[int, int]]:
    """Pictures that look like another one that is larger, or of the same size and first by name.

    Args:
        pictures: All of them.
        indices: Those to compare.
        hashes: Perceptual hashes (kind ``phash``) by content.
        max_distance: Largest Hamming distance of two that are alike.

    Returns:
        Index of a picture -> index of the one it is like, and how many bits differ.
    """

    def rank(index: int) -> tuple[int, str]:
        width, height = pictures[index].size
        return -width * height, pictures[index].name

    best_first = sorted(indices, key=rank)
    bits = [int(hashes[pictures[index].content], 16) for index in best_first]
    near = near_duplicates(np.array(bits, dtype=np.uint64), max_distance)
    return {
        best_first[place]: (best_first[kept], (bits[place] ^ bits[kept]).bit_count())
        for place, kept in near.items()
    }


def _rest(pictures: Sequence[Picture], found: Mapping[int, Finding]) -> list[int]:
    return [index for index in range(len(pictures)) if index not in found]


def _removed(picture: Picture, kind: str, reason: str) -> Finding:
    return Finding(picture.name, kind, reason, REMOVED)
