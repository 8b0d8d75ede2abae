"""``sdlora caption`` as a user types it."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from sdlora import __main__
from sdlora.captioning import drawn_world
from sdlora.captioning.captioners import CAPTIONERS
from sdlora.captioning.drawn_world import DrawnWorldCaptioner
from sdlora.commands.caption.arguments import parser
from sdlora.world.portraits import HELD_OUT_SEEDS, attributes_named, portrait
from tests.captioners import write_random_blip

SEEDS = HELD_OUT_SEEDS[:3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three drawn portraits, the last one in a sub-folder, in a folder of one's own."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "drawn"
    (root / "more").mkdir(parents=True)
    for seed, name in zip(SEEDS, ("a", "b", "more/c"), strict=True):
        portrait(seed).image.save(root / f"{name}.png")
    return root


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``sdlora`` in this process; returns its exit code, and all that it says."""

    def run(*words: str, command: Sequence[str] = ("caption",)) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["sdlora", *command, *words])
            patch.setenv("COLUMNS", "400")
            try:
                __main__.main()
            except SystemExit as stop:
                code = int(str(stop.code))
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def captions(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.txt"))
    }


def test_it_captions_shows_goes_on_and_changes_nothing_that_is_there(
    folder: Path, call: Call
) -> None:
    (folder / "b.txt").write_text("mine", "utf-8")
    code, said = call("drawn", "--trigger-word", "ohwx", "--template", "{caption}, drawing")
    assert code == 0, said
    found = captions(folder)
    assert sorted(found) == ["a.txt", "b.txt", "more/c.txt"]
    assert found["b.txt"] == "mine"
    for seed, name in zip(SEEDS, ("a.txt", "", "more/c.txt"), strict=True):
        if name:
            text = found[name]
            assert text.startswith("ohwx, a ")
            assert text.endswith(" background, drawing\n")
            scene = {n: v for n, v in portrait(seed).scene.attributes().items() if v != "none"}
            assert attributes_named(text) == scene
    assert "1 of 3 picture(s) have a caption, and are left as they are" in said
    assert "2 caption(s) written" in said
    assert "note: " not in said, "they are drawn portraits"
    sheet = Path("outputs/captions/drawn")
    with Image.open(sheet / "contact_sheet.png") as page:
        assert page.width > 3 * 256
    shown = {
        each["name"]: each["text"]
        for each in json.loads((sheet / "dataset.json").read_text())["pictures"]
    }
    assert shown == {name[:-4] + ".png": text.strip() for name, text in found.items()}
    assert "Next, train: sdlora train data.root=drawn model=tiny data.trigger_word=ohwx" in said
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    code, said = call("drawn", "--no-sheet")
    assert code == 0
    assert "nothing to do" in said
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}


def test_captions_are_replaced_or_added_to_when_it_is_said(folder: Path, call: Call) -> None:
    (folder / "a.txt").write_text("mine.\n", "utf-8")
    (folder / "b.caption").write_text("mine\n", "utf-8")
    assert call("drawn", "--append", "--no-sheet")[0] == 0
    once = captions(folder)
    assert once["a.txt"].startswith("mine. a ")
    assert (folder / "b.caption").read_text("utf-8").startswith("mine, a ")
    assert "b.txt" not in once, "the file that is there is the one that changes"
    code, said = call("drawn", "--append", "--no-sheet")
    assert "3 had the same text already" in said, "a second call adds nothing"
    assert captions(folder) == once
    assert call("drawn", "--overwrite", "--no-sheet", "--replace", "background=wall")[0] == 0
    replaced = captions(folder)
    assert "mine" not in "".join(replaced.values())
    assert all(text.endswith(" wall\n") for text in replaced.values())


def test_what_gets_no_caption_is_named_after_the_rest_is_done(folder: Path, call: Call) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "a.txt").write_text(" \n", "utf-8")
    for name in ("two.png", "two.jpg"):
        Image.new("RGB", (64, 64)).save(folder / name)
    code, said = call("drawn", "--no-sheet")
    assert code == 2
    assert "3 picture(s) got no caption:" in said
    assert "broken.png: cannot be decoded" in said
    assert "two.jpg: pictures of one name would share the caption file two.txt" in said
    assert sorted(captions(folder)) == ["a.txt", "b.txt", "more/c.txt"]
    assert captions(folder)["a.txt"].strip(), "a file of blanks is no caption"
    code, said = call("drawn", "--no-sheet", "--on-error", "skip")
    assert code == 0
    assert "left out: broken.png: cannot be decoded" in said


def test_captions_elsewhere_are_left_and_links_are_not_written_through(
    folder: Path, call: Call, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    portrait(7).image.save(elsewhere / "d.png")
    (elsewhere / "text").write_text("theirs", "utf-8")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "mine"}\n', "utf-8")
    code, said = call("drawn", "--overwrite")
    assert code == 2
    assert "--overwrite: the captions of 1 picture(s) stand in a table" in said
    code, said = call("drawn", "--no-sheet")
    assert code == 0
    assert "1 picture(s) have a caption in a table, and are left" in said
    assert sorted(captions(folder)) == ["b.txt", "more/c.txt"]
    (folder / "metadata.jsonl").unlink()
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "a.txt").symlink_to(elsewhere / "text")
    code, said = call("drawn", "--overwrite", "--no-sheet")
    assert code == 2
    assert f"caption that one: sdlora caption {elsewhere}" in said
    assert "a.txt is a link to" in said
    assert (elsewhere / "text").read_text("utf-8") == "theirs"
    assert not (elsewhere / "d.txt").exists()


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_loaded(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access  # which root always has
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "more" and access(path, mode)
    )
    monkeypatch.setattr(drawn_world, "load", None)
    code, said = call("drawn", "--no-sheet")
    assert code == 2
    assert "more/c.png: " in said
    assert "cannot be written; make it writable" in said
    assert not captions(folder)


def test_an_interrupted_call_keeps_what_is_written_and_the_next_goes_on(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = DrawnWorldCaptioner.caption, []

    def interrupted(self: DrawnWorldCaptioner, images: Sequence[Image.Image]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(DrawnWorldCaptioner, "caption", interrupted)
    code, said = call("drawn", "--batch-size", "1")
    assert code == 130
    assert "interrupted: 1 captions are written, each whole" in said
    first = captions(folder)
    assert list(first) == ["a.txt"]
    code, said = call("drawn", "--no-sheet")
    assert calls == [1, 1, 2], "the picture that has one is not described again"
    assert len(captions(folder)) == 3
    assert captions(folder)["a.txt"] == first["a.txt"]


def test_long_captions_are_cut_to_the_tokenizer_and_photos_get_a_note(
    folder: Path, call: Call
) -> None:
    Image.new("RGB", (120, 90), "green").save(folder / "photo.jpg")
    long = "{caption}, " + "very " * 100 + "end"
    code, said = call("drawn", "--no-sheet", "--template", long, "--batch-size", "4")
    assert code == 0
    assert "4 caption(s) were cut to what the model's tokenizer takes: a.png, b.png" in said
    text = captions(folder)["a.txt"]
    assert 40 < text.count("very") < 75
    assert text.startswith("a ")
    assert "note: 1 of 4 picture(s) are not 64x64 pixels. --model tiny knows drawn" in said
    assert "for photos choose --model blip, florence2, vlm, wd, a Hub id or a folder" in said


def test_a_model_of_a_folder_describes_and_its_base_may_be_elsewhere(
    folder: Path, call: Call, tmp_path: Path
) -> None:
    blip = write_random_blip(tmp_path / "blip")
    code, said = call("drawn", "--model", str(blip), "--max-new-tokens", "5", "--no-sheet")
    assert code == 0, said
    assert "note: the tokenizer of stable-diffusion-v1-5/stable-diffusion-v1-5 is not on" in said
    assert "it comes with sdlora fetch model=sd15" in said
    assert len(captions(folder)) == 3
    assert all(0 < len(text.split()) <= 8 for text in captions(folder).values())


@pytest.mark.parametrize("name", [name for name, kind in CAPTIONERS.items() if kind.model])
def test_a_model_that_is_not_here_names_the_command_that_gets_it(
    name: str, folder: Path, call: Call
) -> None:
    code, said = call("drawn", "--model", name)
    assert code == 2
    assert f"--model={name}: is no folder here, and no model of the Hub that was fetched" in said
    command = said.partition("get it once, with network: ")[2].splitlines()[0]
    code, said = call(*shlex.split(command)[2:], command=("fetch",))
    assert code == 2
    assert f"--model={name}: HF_HUB_OFFLINE is set; unset it to fetch" in said
    assert not captions(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "blpi"], "--model=blpi: no captioner, folder or Hub id of this name; did you"),
        (["--instruction", "Hm?"], "--instruction=Hm?: --model tiny takes none; leave it out"),
        (
            ["--model", "florence2", "--instruction", "captoin"],
            "is none of its tasks: caption, detailed_caption, more_detailed_caption",
        ),
        (["--general", "0.5"], "--general=0.5: is for taggers"),
        (["--max-new-tokens", "9"], "--max-new-tokens=9: --model tiny generates no tokens"),
        (["--template", "a drawing"], "--template=a drawing: must hold {caption} once"),
        (["--trigger-word", "<|endoftext|>"], "--trigger-word=<|endoftext|>: holds"),
        (["--precision", "fp16", "--device", "cpu"], "--precision=fp16: needs a GPU"),
        (["--general", "2"], "argument --general: 2: must be a number in (0, 1)"),
        (["--replace", "x"], "argument --replace: x: must be OLD=NEW"),
        (["--append", "--overwrite"], "not allowed with argument"),
    ],
)
def test_an_option_that_cannot_work_is_named_before_anything_is_written(
    words: list[str], message: str, folder: Path, call: Call
) -> None:
    code, said = call("drawn", *words)
    assert code == 2
    assert message in said
    assert not captions(folder)


def test_folders_without_pictures_are_named(folder: Path, call: Call, tmp_path: Path) -> None:
    assert "nowhere: does not exist; give the folder" in call("nowhere")[1]
    (tmp_path / "empty").mkdir()
    code, said = call("empty")
    assert code == 2
    assert "empty: no picture; looked for .png, .jpg" in said


def test_the_help_lists_every_captioner_with_its_model() -> None:
    text = parser().format_help()
    for kind in CAPTIONERS.values():
        assert f"  {kind.name:9}  {kind.what}" in text
        assert kind.model is None or kind.model in text
