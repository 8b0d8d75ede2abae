"""A sweep's ``report.html``: what it shows, what may be missing, that foreign text stays text."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdlora.reports import sweep_pictures
from sdlora.reports.sweep_data import trade_off
from sdlora.reports.sweep_page import write_sweep_report
from sdlora.reports.sweep_pictures import read_thumbnails
from sdlora.reports.sweep_table import duration
from sdlora.sweep.cells import read_sweep
from tests.sweep_folders import write_cell, write_pictures, write_state, write_sweep
from tests.unit.reports.test_page import EVIL, Page

PROMPTS = ("a red cat", EVIL)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two finished cells, one that failed, one that has not begun."""
    cells = [{"lora.r": rank, "optim.unet_lr": rate} for rank in (2, 8) for rate in (0.001, 0.01)]
    first, second, failed, _ = write_sweep(tmp_path, cells)
    write_cell(first, 0.75)
    write_cell(second, 0.5)
    write_pictures(first, "red", PROMPTS)
    write_pictures(second, "blue", PROMPTS)
    write_state(failed, "failed", EVIL)
    return tmp_path


def page_of(folder: Path) -> tuple[Page, dict[str, Any]]:
    page, table = write_sweep_report(folder)
    assert (page, table) == (folder / "report.html", folder / "results.csv")
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall('id="sweep-data">(.*?)</script>', text, re.DOTALL)
    return Page(text), json.loads(data)


def test_it_shows_every_cell_and_the_base(sweep: Path) -> None:
    page, data = page_of(sweep)
    assert [row.get("data-cell") for row in page.all("tr")] == [None, None, "1", "2", "3", "4"]
    for text in ("base", "not begun", "1.250", "0.500", "-0.750", "± 0.125", "1 min 01 s"):
        assert text in page.text, text
    assert "4 (2 done, 1 failed, 1 not begun)" in page.text
    assert (data["winner"], data["runnerUp"], data["rule"]) == (2, 1, "face_distance")
    assert (data["down"], data["across"]) == ("lora.r", "optim.unet_lr")
    assert [cell["values"] for cell in data["cells"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert data["cells"][0]["curves"]["face_distance"] == [[10, 0.75], [20, 0.75]]
    assert "sdlora train -m lora.r=2,8 optim.unet_lr=0.001,0.01" in page.text


def test_its_links_are_relative_and_lead_to_files(sweep: Path) -> None:
    (sweep / "lora.r=2,optim.unet_lr=0.001" / "report.html").touch()
    page, data = page_of(sweep)
    links = [str(link["href"]) for link in page.all("a")]
    assert [link for link in links if link.endswith("report.html")] == [
        "lora.r%3D2%2Coptim.unet_lr%3D0.001/report.html"
    ]
    pictures = [p for cell in data["cells"] for row in cell["pictures"].values() for p in row]
    assert all((sweep / picture["file"]).is_file() for picture in pictures)


def test_foreign_text_stays_text(sweep: Path) -> None:
    page, data = page_of(sweep)
    assert page.text.count("alert(1)") >= 2
    assert len(page.all("script")) == 7  # six of ours and the numbers
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert not page.all("img")
    assert [prompt["text"] for prompt in data["prompts"]] == list(PROMPTS)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(re.findall("'sha256-", policy)) == 6


def test_a_cell_has_its_pictures_by_step(sweep: Path) -> None:
    shown = read_thumbnails(read_sweep(sweep))
    steps = {p: [each.step for each in row] for p, row in shown.cells[2].items()}
    assert steps == {0: [10, 20], 1: [20]}  # the preview draws the first prompt only
    assert sorted(shown.base) == [0, 1]
    uri = shown.cells[2][0][1].uri
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (32, 32))
        assert picture.convert("RGB").getpixel((16, 16)) == (0, 0, 255)  # small ones are exact


def test_pictures_are_reduced_until_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = write_sweep(tmp_path, [{"lora.r": 2}])
    write_cell(folder)
    noise = Image.effect_noise((300, 200), 90).convert("RGB")
    for step in range(1, 9):
        path = folder / "samples" / f"step_{step:07d}"
        path.mkdir(parents=True)
        for number in range(4):
            noise.save(path / f"{number}.png")
    path.rename(folder / "samples" / "last")
    sweep = read_sweep(tmp_path)
    whole = read_thumbnails(sweep)
    assert (whole.side_px, len(whole.steps), len(whole.prompts), whole.notes) == (256, 8, 4, [])
    few = read_thumbnails(sweep, 60_000)
    assert (few.side_px, len(few.steps)) == (128, 2)
    assert few.steps[-1] == 20
    sizes = [len(each.uri) for row in few.cells[1].values() for each in row]
    assert sum(sizes) <= 60_000
    assert few.notes[0].startswith("Pictures of 2 of 8 steps")
    assert read_thumbnails(sweep, 100).cells == {}
    monkeypatch.setattr(sweep_pictures, "MAX_PICTURES", 16)
    counted = read_thumbnails(sweep)
    assert (counted.side_px, len(counted.steps)) == (256, 4)


def test_the_front_is_of_identity_and_prompt(sweep: Path) -> None:
    assert trade_off(read_sweep(sweep)) == {
        "x": "face_distance",
        "y": "clip_score",
        "front": [2],  # of equal CLIP scores the lower face distance
    }


@pytest.mark.parametrize(
    "name",
    ["report.json", "config.json", "cell.json", "lora/scores.json", "samples/prompts.json"],
)
def test_a_cut_cell_does_not_break_the_page(sweep: Path, name: str) -> None:
    cell = read_sweep(sweep).cells[1]
    (cell.folder / name).write_bytes((cell.folder / name).read_bytes()[:20])
    for picture in (cell.folder / "samples" / "last").iterdir():
        picture.write_bytes(picture.read_bytes()[:40])
    page, data = page_of(sweep)
    assert [row.get("data-cell") for row in page.all("tr")][2:] == ["1", "2", "3", "4"]
    assert "cannot be read" in page.text
    assert data["cells"][0]["pictures"]


@pytest.mark.parametrize(
    ("broken", "other"), [("report.html", "results.csv"), ("results.csv", "report.html")]
)
def test_one_file_that_cannot_be_written_does_not_cost_the_other(
    sweep: Path, broken: str, other: str
) -> None:
    (sweep / broken).mkdir()
    with pytest.raises(OSError, match=broken):
        write_sweep_report(sweep)
    assert (sweep / other).is_file()


def test_a_sweep_that_has_not_begun_is_a_page(tmp_path: Path) -> None:
    write_sweep(tmp_path, [{"seed": 0}, {"seed": 1}])
    page, data = page_of(tmp_path)
    assert "none has begun" in page.text
    assert "No cell has pictures." in page.text
    assert (data["winner"], data["scores"], data["tradeOff"]) == (None, [], None)
    assert (data["down"], data["across"]) == ("seed", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3600 * 26 + 59, "26 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
