"""From the config to pictures that can be trained on: cut as asked, and nothing lost unseen."""

from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sdlora.assembly.data_source import held_out_fraction
from sdlora.assembly.training_pictures import (
    held_out_pictures,
    training_pictures,
)
from sdlora.cli.arguments import opened_shortcuts
from sdlora.commands.train.run_pictures import data_sheet, refuse_findings
from sdlora.config.train import TrainConfig
from sdlora.data.batches.plan import plan_of
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress
from tests.composed import train_config
from tests.places import PHOTOS
from tests.unit.data.hub_sets import write_parquet


def config_of(tmp_path: Path, *overrides: str) -> TrainConfig:
    given = opened_shortcuts([f"data.cache.dir={tmp_path / 'cache'}", *overrides])
    return train_config(*given)


def found_by(config: TrainConfig, folder: Path, progress: Progress) -> PictureSet:
    return training_pictures(config.data, config.model, folder, progress, is_check=config.check)


def checked(tmp_path: Path, folder: Path, *overrides: str) -> PictureSet:
    config = config_of(tmp_path, f"data.root={folder}", *overrides)
    return found_by(config, tmp_path / "run", Progress(enabled=False))


def write(folder: Path, **sizes: tuple[int, int]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, size) in enumerate(sizes.items()):
        place = number % 9
        picture = Image.new("RGB", size, (40 * number % 256, 99, 0))
        draw = ImageDraw.Draw(picture)  # so that no two look alike
        draw.rectangle((0, 0, size[0] * (place + 1) // 9, size[1] // 2), fill="white")
        draw.ellipse((size[0] // 2, size[1] * place // 9, size[0], size[1]), fill="black")
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}", "utf-8")
    return folder


def test_buckets_follow_the_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", lying=(300, 150), square=(100, 100), standing=(150, 300))
    auto = checked(tmp_path, folder, "data.buckets.mode=auto")
    names = [picture.name for picture in auto.source.pictures]
    cut = dict(zip(names, (geometry.bucket for geometry in auto.geometry), strict=True))
    assert cut == {"lying.png": (80, 48), "square.png": (64, 64), "standing.png": (48, 80)}
    square = checked(tmp_path, folder)
    assert {geometry.bucket for geometry in square.geometry} == {(64, 64)}
    fixed = checked(tmp_path, folder, "data.buckets.mode=fixed", "data.buckets.sizes=[64x64,96x48]")
    assert [geometry.bucket for geometry in fixed.geometry] == [(96, 48), (64, 64), (64, 64)]


def test_nothing_is_enlarged_unless_it_may_be(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", large=(200, 200), small=(50, 70), tiny=(10, 10))
    enlarged = checked(tmp_path, folder)
    assert max(geometry.scale for geometry in enlarged.geometry) == 6.4
    square = checked(tmp_path, folder, "data.upscale=false")
    assert [picture.name for picture in square.source.pictures] == ["large.png"]
    assert [str(finding).partition(";")[0] for finding in square.source.findings] == [
        "small.png: is 50x70 pixels, too small for 64x64",
        "tiny.png: is 10x10 pixels, too small for 64x64",
    ]
    auto = checked(tmp_path, folder, "data.upscale=false", "data.buckets.mode=auto")
    assert [picture.name for picture in auto.source.pictures] == ["large.png", "small.png"]
    assert auto.geometry[1].bucket == (48, 64)
    assert auto.geometry[1].scale <= 1


def test_filters_and_faults_are_findings_and_the_rest_stays_in_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90), b=(40, 90), c=(90, 80), d=(80, 90))
    content = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(content[:-30])
    data = checked(tmp_path, folder, "data.filters.min_width=50", "data.cache=off")
    assert [picture.name for picture in data.source.pictures] == ["a.png", "d.png"]
    found = {finding.name: (finding.kind, finding.severity) for finding in data.source.findings}
    assert found == {"b.png": ("too_small", "removed"), "c.png": ("unreadable", "error")}
    assert data.source.image(1).size == (80, 90)


def test_the_fingerprint_is_that_of_all_that_was_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90), b=(90, 90))
    whole = checked(tmp_path, folder).fingerprint
    assert checked(tmp_path, folder, "data.cache=off").fingerprint == whole
    (folder / "b.txt").write_text("another caption", "utf-8")
    assert checked(tmp_path, folder).fingerprint != whole


def test_the_full_check_warns_of_pictures_that_look_alike(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90), b=(90, 80))
    with Image.open(folder / "a.png") as picture:
        picture.resize((80, 80)).save(folder / "again.png")
    (folder / "again.txt").write_text("picture a again", "utf-8")
    assert checked(tmp_path, folder).source.findings == []
    (found,) = checked(tmp_path, folder, "check=true").source.findings
    assert (found.name, found.kind, found.severity) == ("again.png", "look_alike", "warning")
    assert found.reason.startswith("looks like a.png (")


def test_class_pictures_train_along_as_often(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90), b=(90, 90))
    others = tmp_path / "class"
    write(others, **{f"c{number}": (80, 80) for number in range(5)})
    for caption in others.glob("*.txt"):
        caption.unlink()
    prior = ("data.prior.mode=class", "data.prior.prompt=a thing", f"data.prior.root={others}")
    data = checked(tmp_path, folder, *prior, "data.prior.weight=0.25")
    kinds = Counter(
        (picture.text, picture.loss_weight, picture.repeats) for picture in data.source.pictures
    )
    assert kinds == {("picture a", 1.0, 2): 1, ("picture b", 1.0, 2): 1, ("a thing", 0.25, 1): 5}


def test_the_check_does_without_class_pictures_that_are_still_to_be_drawn(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90))
    prior = ("data.prior.mode=class", "data.prior.prompt=a thing")
    data = checked(tmp_path, folder, "check=true", *prior)
    assert [picture.name for picture in data.source.pictures] == ["a.png"]
    assert not (tmp_path / "run").exists()


def test_a_set_of_which_nothing_is_left_says_where_it_went(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90))
    config = config_of(tmp_path, f"data.root={folder}", "data.filters.min_width=100")
    data = found_by(config, tmp_path, Progress(enabled=False))
    found = data_sheet(config, data)
    with pytest.raises(DataError, match=r"set: no usable picture; 1 file\(s\) removed by filters"):
        refuse_findings(config.data, found)
    two = config_of(tmp_path, "data.root=null", f"data.roots=[{{path: '{folder}'}}]")
    with pytest.raises(DataError, match=r"^data\.roots=\[.*set\]: no usable picture"):
        refuse_findings(two.data, found)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photos are not here ({PHOTOS})")
@pytest.mark.parametrize(
    "mode",
    [
        ("data.buckets.mode=square",),
        ("data.buckets.mode=auto", "data.upscale=false"),
        ("data.buckets.mode=fixed", "data.buckets.sizes=[512x512,512x768,768x512]"),
    ],
    ids=["square", "auto", "fixed"],
)
def test_a_hundred_photos_train_in_every_bucket_mode(mode: tuple[str, ...], tmp_path: Path) -> None:
    config = config_of(tmp_path, f"data.root={PHOTOS}", "data.resolution=512", *mode)
    data = found_by(config, tmp_path / "run", Progress(enabled=False))
    assert not data.source.findings
    plan = plan_of(data, config.data.batch_size, config.seed)
    shown = [i for n in range(plan.batches_per_epoch) for i in plan.draw(n).pictures.tolist()]
    assert sorted(shown) == list(range(100))
    for picture, geometry in zip(data.source.pictures, data.geometry, strict=True):
        left, top, right, bottom = geometry.crop
        assert left >= 0
        assert top >= 0
        assert right <= picture.size[0] + 1e-6
        assert bottom <= picture.size[1] + 1e-6
        assert all(side % 16 == 0 for side in geometry.bucket)


def test_a_share_is_held_out_by_the_pictures_own_bytes(tmp_path: Path) -> None:
    sizes = {f"p{number}": (64 + number, 64) for number in range(60)}
    folder = write(tmp_path / "set", **sizes)
    data = checked(tmp_path, folder)
    trained, unseen = data.split(0.25)
    names = {picture.name for picture in unseen.source.pictures}
    assert 4 <= len(names) <= 28  # 15 expected: more than three standard deviations either way
    assert {picture.name for picture in trained.source.pictures} == {
        f"{name}.png" for name in sizes
    } - names
    assert len(unseen.geometry) == len(names)
    (folder / "p0.png").unlink()
    (folder / "p0.txt").unlink()
    _, again = checked(tmp_path, folder).split(0.25)
    assert {picture.name for picture in again.source.pictures} == names - {"p0.png"}


def test_filters_change_no_side_of_what_is_held_out_by_itself(tmp_path: Path) -> None:
    """What evaluate.py sees of a run has no filters, and must hold out the same pictures."""
    sizes = {f"p{number}": (64 + number, 64) for number in range(40)}
    folder = write(tmp_path / "set", **sizes)
    every = checked(tmp_path, folder)
    some = checked(tmp_path, folder, "data.filters.min_width=84")
    unseen = [
        {picture.name for picture in data.split(data.automatic_fraction)[1].source.pictures}
        for data in (every, some)
    ]
    assert len(unseen[0]) == 4
    assert unseen[1] == {name for name in unseen[0] if int(name[1:-4]) >= 20}


@pytest.mark.parametrize(
    ("given", "held_out"),
    [
        (["model=sd15"], None),
        (["model=sd15", "data.val_fraction=0"], 0),
        (["model=sd15", "data.val_fraction=0.3"], 0.3),
        (["model=sd15", "data.val_root=others"], 0),
        (["model=sd15", "evaluation.references=others"], 0),
        (["model=sd15", "evaluation=hw10"], 0),
        (["model=sd15", "data=hub", "data.hub.streaming=true", "data.cache=off"], 0),
        (["model=tiny"], 0),
        (["experiment=hw10"], 0),
    ],
)
def test_what_is_held_out_by_itself(
    tmp_path: Path, given: list[str], held_out: float | None
) -> None:
    config = config_of(tmp_path, "data.root=photos", *given)
    scores, by_itself = config.evaluation, 0.07
    asked = (config.data, scores.references, scores.hw10)
    expected = by_itself if held_out is None else held_out
    assert held_out_fraction(*asked, None, by_itself) == expected
    if held_out is None:
        assert held_out_fraction(*asked, "photos/held_out", by_itself) == 0


def test_held_out_pictures_are_found_or_left_out_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=(90, 90), b=(90, 90))
    config = config_of(tmp_path, f"data.root={folder}")
    progress = Progress(enabled=False)
    assert held_out_pictures(config.data, config.model, progress) is None
    unseen = write(folder / "held_out", c=(90, 90), d=(200, 90))
    found = held_out_pictures(config.data, config.model, progress)
    assert found is not None
    assert [picture.text for picture in found.source.pictures] == ["picture c", "picture d"]
    assert [geometry.bucket for geometry in found.geometry] == [(64, 64), (64, 64)]
    strict = config_of(tmp_path, f"data.root={folder}", "data.upscale=false")
    write(unseen, c=(30, 30), d=(200, 90))
    found = held_out_pictures(strict.data, strict.model, progress)
    assert found is not None
    assert [picture.name for picture in found.source.pictures] == ["d.png"]
    (unseen / "c.txt").unlink()
    (unseen / "README").write_text("of a friend")
    with progress.console.capture() as shown:
        found = held_out_pictures(config.data, config.model, progress)
    assert found is not None
    assert [picture.name for picture in found.source.pictures] == ["d.png"]
    told = shown.get()
    assert "validation: left out: c.png: " in told
    assert "validation: README: is not read" in told
    (unseen / "d.txt").unlink()
    assert held_out_pictures(config.data, config.model, progress) is None


def test_held_out_pictures_without_captions_get_the_default_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", one=(64, 64), two=(64, 64))
    write(folder / "held_out", three=(64, 64))
    (folder / "held_out" / "three.txt").unlink()
    quiet = Progress(enabled=False)
    bare = config_of(tmp_path, f"data.root={folder}")
    assert held_out_pictures(bare.data, bare.model, quiet) is None
    config = config_of(tmp_path, f"data.root={folder}", "data.captions.default=a thing")
    found = held_out_pictures(config.data, config.model, quiet)
    assert found is not None
    assert [picture.text for picture in found.source.pictures] == ["a thing"]


def test_transparency_masks_the_pictures_of_a_hub_set_where_asked(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    file = BytesIO()
    image.save(file, "PNG")
    path = write_parquet(tmp_path / "set" / "a.parquet", [{"image": file.getvalue(), "text": "x"}])
    for alpha, is_masked in (("mask", True), ("background", False)):
        own = ("data.source=hub", f"data.root={path.parent}", f"data.alpha={alpha}")
        config = config_of(tmp_path, *own)
        found = found_by(config, tmp_path / "run", Progress(enabled=False))
        assert [picture.has_mask for picture in found.source.pictures] == [is_masked]
