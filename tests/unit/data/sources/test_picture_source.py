"""Sources that draw, choose or join: pictures, findings and fingerprints stay those they name."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sdlora.config.data import RootConfig
from sdlora.data.pictures.picture import Finding
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import Selection, WithClassPictures, fingerprint, readable
from sdlora.data.sources.portrait_source import PortraitSource
from sdlora.world.portraits import portrait


def test_portraits_are_drawn_by_seed() -> None:
    source = PortraitSource(3, first_seed=5)
    shifted = PortraitSource(2, first_seed=6)
    told = [[(p.name, p.text) for p in drawn.pictures] for drawn in (source, shifted)]
    assert told[0][1:] == told[1]
    assert source.image(1).tobytes() == shifted.image(0).tobytes()
    assert source.image(0).tobytes() != source.image(1).tobytes()
    assert source.image(0).size == source.pictures[0].size == (64, 64)
    assert source.mask(0) is None
    copy = pickle.loads(pickle.dumps(source))  # what a spawned worker gets
    assert copy.image(2).tobytes() == source.image(2).tobytes()


def test_portrait_fingerprints_tell_sources_apart() -> None:
    sources = [
        PortraitSource(2),
        PortraitSource(3),
        PortraitSource(2, first_seed=1),
        PortraitSource(2, identity_seed=7),
        PortraitSource(2, size=32),
    ]
    seen = [fingerprint(source.pictures) for source in sources]
    assert len(set(seen)) == len(sources)
    assert fingerprint(PortraitSource(2).pictures) == seen[0]


def test_portrait_captions_belong_to_the_drawings() -> None:
    source = PortraitSource(2, first_seed=11, identity_seed=3)
    assert [p.text for p in source.pictures] == [portrait(n, 3).caption for n in (11, 12)]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"text": "other"},
        {"content": "other"},
        {"prefix": "other"},
        {"repeats": 2},
        {"loss_weight": 0.5},
        {"mask_content": "ab"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_fingerprint_sees_every_change(change: dict[str, object]) -> None:
    pictures = list(PortraitSource(2).pictures)
    assert fingerprint([pictures[0], replace(pictures[1], **change)]) != fingerprint(pictures)


def test_a_selection_is_numbered_anew() -> None:
    source = PortraitSource(4)
    removed = Finding("portrait-0000001", "too_small", "is too small")
    chosen = Selection(source, [3, 0], [removed])
    assert chosen.pictures == [source.pictures[3], source.pictures[0]]
    assert chosen.image(0).tobytes() == source.image(3).tobytes()
    assert chosen.mask(1) is None
    assert chosen.findings == [removed]
    again = Selection(chosen, [1])
    assert again.pictures == [source.pictures[0]]
    assert again.image(0).tobytes() == source.image(0).tobytes()
    assert again.findings == [removed]


def test_class_pictures_are_shown_about_as_often_as_the_others() -> None:
    own, others = PortraitSource(2), PortraitSource(5, first_seed=100)
    joined = WithClassPictures(own, others, 0.5)
    assert joined.times == (2, 1)
    assert [picture.repeats for picture in joined.pictures] == [2] * 2 + [1] * 5
    assert [picture.loss_weight for picture in joined.pictures] == [1.0] * 2 + [0.5] * 5
    assert len({picture.name for picture in joined.pictures}) == 7
    assert joined.image(1).tobytes() == own.image(1).tobytes()
    assert joined.image(2).tobytes() == others.image(0).tobytes()
    assert joined.mask(6) is None


def test_what_cannot_be_read_is_left_out_of_comparisons(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name, "utf-8")
    source = FolderSource([RootConfig(path=str(tmp_path))])
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    found = readable(source, None)
    assert [picture.name for picture, _ in found] == ["a.png", "c.png"]
    assert [image.getpixel((0, 0)) for _, image in found] == [(255, 0, 0)] * 2
    assert [picture.name for picture, _ in readable(source, 2)] == ["a.png"]
