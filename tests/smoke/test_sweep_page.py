"""A sweep's ``report.html`` in a browser: headless Chromium, where it and playwright are there."""

import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sdlora.reports.sweep_page import write_sweep_report
from tests.smoke.browsers import WIDTHS_PX, opened, require_no_overflow
from tests.smoke.conftest import Train
from tests.sweep_folders import write_cell, write_pictures, write_state, write_sweep

EVIL = """a dog </script><script>alert(1)</script><img src=x onerror='alert(2)'>"""
PROMPTS = ("a red cat", EVIL, "x" * 300)
COLOURS = ("red", "blue", "green", "yellow", "purple", "brown")
FACES = (0.625, 0.5, 1.0, 0.25, 0.75, 0.875)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranks 2 and 8, rates 0.001 and 0.01, seeds 0 and 1; cell 7 failed, 8 has not begun."""
    folder = tmp_path_factory.mktemp("sweep")
    names = ("lora.r", "optim.unet_lr", "seed")
    values = product((2, 8), (0.001, 0.01), (0, 1))
    cells = write_sweep(folder, [dict(zip(names, each, strict=True)) for each in values])
    for cell, face, colour in zip(cells, FACES, COLOURS, strict=False):
        write_cell(cell, face, clip=86 + face, final_face=face + 0.125, faces=[face, face, None])
        write_pictures(cell, colour, PROMPTS)
        (cell / "report.html").touch()
    write_state(cells[6], "failed", f"OutOfMemoryError: {EVIL} {'y' * 200}")
    return write_sweep_report(folder)[0]


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    with opened(browser, report, 1280) as shown:
        yield shown


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_nothing_overflows_to_the_side(browser: Any, report: Path, width: int) -> None:
    with opened(browser, report, width) as page:
        require_no_overflow(page)
        assert page.locator("#grid img").count() == 3
        for plot in ("#scatter circle", "#parallel path.line", "[data-curves] path.line"):
            page.locator(plot).first.wait_for()
        assert page.locator("#scatter g.series").count() == 6
        assert page.locator("#parallel g.series").count() == 6


def first_column(page: Any) -> list[str]:
    texts = page.locator("#cell-table tbody tr:visible th").all_inner_texts()
    return [text.strip() for text in texts]


def test_the_table_sorts_and_filters(page: Any) -> None:
    # the setting of cells 1 and 2 has the lowest mean over both seeds, though cell 4 is lower
    assert first_column(page) == ["base", "1", "2 ★", "3", "4", "5", "6", "7", "8"]
    distance = page.locator("#cell-table thead button:visible", has_text="face distance")
    distance.click()
    ascending = ["4", "2 ★", "1", "5", "6", "3", "base"]
    assert first_column(page) == [*ascending, "7", "8"]  # what has no number stays last
    distance.press("Enter")
    assert first_column(page) == [*ascending[::-1], "7", "8"]
    page.locator("#cell-table thead button:visible", has_text="CLIP score").click()
    assert first_column(page)[:3] == ["3", "6", "5"]  # the best on top
    page.fill("#cell-filter", "R=8 failed")
    assert first_column(page) == ["base", "7"]
    assert page.inner_text("#cells-found") == "1 of 8 cells"
    page.fill("#cell-filter", "")
    page.select_option("#score-group", "both")
    assert page.locator("#cell-table thead button:visible", has_text="face distance").count() == 2


def tiles(page: Any) -> list[str]:
    """Number of the cell and its step, row by row; else why there is no picture."""
    found = []
    for tile in page.locator("#grid .tile").all():
        number = tile.get_attribute("data-cell")
        text = tile.inner_text().split("\n")[0]
        found.append(f"{number} {text}" if number else text.partition(":")[0])
    return found


def test_the_grid_follows_its_selects_and_sliders(page: Any) -> None:
    assert page.locator("#grid thead th").all_inner_texts() == ["r ↓\nunet_lr →", "0.001", "0.01"]
    seed = page.locator("#fixed select").nth(2)
    assert seed.input_value() == "1"  # the winner's
    assert tiles(page) == ["2 step 20", "4 step 20", "6 step 20", "not begun"]
    seed.select_option("0")
    assert tiles(page) == ["1 step 20", "3 step 20", "5 step 20", "failed"]
    page.locator("#step").focus()
    page.keyboard.press("Home")
    assert tiles(page)[0] == "1 step 10 ★"
    page.locator("#prompt").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#prompt-text") == EVIL
    assert tiles(page)[0] == "1 step 20"  # step 10 shows the first prompt only
    page.select_option("#across", label="seed")
    assert page.locator("#grid thead th").all_inner_texts() == ["r ↓\nseed →", "0", "1"]
    page.select_option("#down", label="seed")  # the two change places
    assert page.locator("#grid thead th").all_inner_texts() == ["seed ↓\nr →", "2", "8"]
    assert page.locator("#heat th").first.inner_text() == "seed ↓\nr →"


def test_two_cells_lie_side_by_side(page: Any) -> None:
    def clip() -> str:
        return page.evaluate("getComputedStyle(document.querySelector('.over')).clipPath")

    def sources() -> list[str]:
        return [image.get_attribute("src") for image in page.locator(".frame img").all()]

    before = sources()
    assert len(before) == 2
    page.select_option("#left", label="base")
    after = sources()
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert page.inner_text(".base-name") == "base"
    assert clip() == "inset(0px 0px 0px 50%)"
    page.locator(".split").focus()
    page.keyboard.press("End")
    assert clip() == "inset(0px 0px 0px 100%)"


def test_a_click_enlarges_and_links_to_the_file(page: Any, report: Path) -> None:
    page.locator("#grid .tile").nth(1).click()
    assert page.inner_text("#viewer p").startswith("cell 4 (lora.r=2, ")
    assert page.locator("#viewer img").bounding_box()["width"] > 300
    link = page.locator("#viewer a")
    name = "lora.r%3D2%2Coptim.unet_lr%3D0.01%2Cseed%3D1/samples/last/000-0123abcd.png"
    assert link.get_attribute("href") == name
    page.keyboard.press("ArrowLeft")
    assert "step 10 ★, face distance 0.250" in page.inner_text("#viewer p")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_the_cells_of_a_search_stand_one_after_the_other(browser: Any, tmp_path: Path) -> None:
    """Drawn values meet in one cell each: a grid of them would be empty but for its diagonal."""
    cells = write_sweep(tmp_path, [{"rate": n / 7, "r": n, "seed": 10 - n} for n in range(1, 7)])
    for cell, face, colour in zip(cells, FACES, COLOURS, strict=True):
        write_cell(cell, face)
        write_pictures(cell, colour)
    with opened(browser, write_sweep_report(tmp_path)[0], 1280) as page:
        assert [tile.partition(" ")[0] for tile in tiles(page)] == ["4", "2", "1", "5", "6", "3"]
        assert page.locator("#no-maps").is_visible()
        assert page.locator("#parallel g.series").count() == 6


@pytest.mark.slow
def test_evaluate_writes_page_and_table_again(
    train_process: Train, message_of: Callable[..., str], report: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(report.parent, tmp_path / "sweep")
    page, table = folder / report.name, folder / "results.csv"
    table.unlink()
    before = sorted(folder.iterdir())
    done = train_process(f"sweep={folder}", script="evaluate.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Written: {page} {table}" in done.stdout
    assert sorted(folder.iterdir()) == sorted([*before, table])  # nothing of Hydra's own
    told = message_of(f"sweep={tmp_path}", evaluate=True)
    assert told.startswith(f"sweep={tmp_path}: holds no sweep.yaml; name the folder")


def test_a_cell_lights_up_everywhere(page: Any) -> None:
    page.locator('#cell-table tr[data-cell="4"] a').focus()
    lit = page.locator(".lit")
    assert {each.get_attribute("data-cell") for each in lit.all()} == {"4"}
    assert (
        page.locator("#scatter .lit, #parallel .lit, [data-curves] .lit, #grid .lit").count() >= 4
    )
    page.locator("#scatter .series").first.hover()
    assert page.inner_text("#tip").startswith("cell 1: lora.r=2, optim.unet_lr=0.001, seed=0: ")
    page.locator("h1").hover()
    assert page.locator(".lit").count() == 0
    assert not page.locator("#tip").is_visible()
