"""``report.html`` in a browser: headless Chromium, where it and playwright are installed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdlora.config.score_kinds import KINDS
from sdlora.reports.page import write_html_report
from sdlora.reports.run_state import RUNNING, RunState
from tests.smoke.browsers import WIDTHS_PX, opened, require_no_overflow

EVIL = """a dog </script><script>alert(1)</script><img src=x onerror='alert(2)'>"""
PROMPTS = ("a red cat in the snow", "a blue cat", EVIL, "x" * 300)
STEPS = (75, 150)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report")
    samples = run / "samples"
    listed = []
    for number, text in enumerate(PROMPTS):
        file = f"{number:03d}-0123abcd.png"
        listed.append({"file": file, "text": text, "seed": 0})
        colors = {"base": "grey", "step_0000075": "orange", "step_0000150": "red", "last": "blue"}
        for folder, color in colors.items():
            if folder.startswith("step") and number > 1:
                continue
            (samples / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), color).save(samples / folder / file)
    (samples / "prompts.json").write_text(json.dumps(listed), encoding="utf-8")
    Image.new("RGB", (1600, 400), "white").save(run / "contact_sheet.png")
    lines: list[dict[str, Any]] = [{"step": 0, "base/face_distance": 1.3, "base/clip_score": 86.0}]
    lines += [{"step": step, "train/loss": 1 / step} for step in range(10, 210, 10)]
    lines += [{"step": s, "eval/face_distance": 50 / s, "eval/clip_score": 87.0} for s in STEPS]
    lines += [{"step": s, "eval/kid": 1 / s, "eval/kid_low": 0, "eval/kid_high": 1} for s in STEPS]
    lines += [{"step": s, "eval/several_faces": 1} for s in STEPS]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    base, lora = scores(1.3, len(PROMPTS)), scores(0.4, len(PROMPTS))
    Image.new("RGB", (64, 64), "green").save(samples / "nearest.png")
    pair = {"picture": "samples/last/000-0123abcd.png", "training": "samples/nearest.png"}
    stored = {
        "lora/scores.json": {"step": 75},
        "report.json": {"version": 2, "scores": {"base": base, "best": lora, "LoRA": lora}},
        "nearest.json": [{**pair, "prompt": EVIL, "name": "v" * 100, "similarity": 0.9}] * 3,
        "config.json": {"config": {"export": {"name": "my_lora"}, "data": {"root": "y" * 200}}},
        "dataset.json": {
            "counts": {"pictures": 24},
            "findings": [
                {"name": "z" * 200, "kind": "cut", "reason": EVIL, "severity": "error"},
            ],
        },
    }
    for name, value in stored.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(json.dumps(value), encoding="utf-8")
    (run / ".hydra").mkdir()
    overrides = "- sampling.prompts=" + "w" * 200 + "\n"
    (run / ".hydra" / "overrides.yaml").write_text(overrides, encoding="utf-8")
    return write_html_report(run)


def scores(face_distance: float, count: int) -> dict[str, Any]:
    values = dict.fromkeys(KINDS, 0.5) | {"face_distance": face_distance, "faceless": 1}
    return {
        "num_pictures": count,
        "values": values,
        "reasons": {"own_score": EVIL},
        "intervals": {"face_distance": [face_distance / 2, face_distance]},
        "per_picture": {
            "prompt": list(PROMPTS[:count]),
            "face_distance": [face_distance, *[None] * (count - 1)],
            "clip_score": [80.0] * count,
            "num_faces": [1, *[0] * (count - 1)],
        },
    }


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``evaluate.py`` writes it, for many LoRAs."""
    folder = tmp_path_factory.mktemp("evaluation")
    labels = ["base", *(f"a_lora_with_a_long_name_{number} x0.6" for number in range(7))]
    listed = []
    for number, text in enumerate(PROMPTS[:2]):
        file = f"{number:03d}-0123abcd.png"
        listed.append({"file": file, "text": text, "seed": 0})
        for index, label in enumerate(labels):
            (folder / label.replace(" ", "-")).mkdir(exist_ok=True)
            picture = Image.new("RGB", (64, 64), (30 * index, 90, 0))
            picture.save(folder / label.replace(" ", "-") / file)
    (folder / "prompts.json").write_text(json.dumps(listed), encoding="utf-8")
    report = {
        "version": 2,
        "settings": {"config": {"lora": ["u" * 200], "model": {"path": "sd-base"}}},
        "scores": {label: scores(1 / (1 + index), 2) for index, label in enumerate(labels)},
        "pictures": {label: label.replace(" ", "-") for label in labels},
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return write_html_report(folder)


@pytest.fixture(params=WIDTHS_PX)
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(browser, report, request.param) as shown:
        yield shown


@pytest.fixture(params=WIDTHS_PX)
def evaluation_page(
    browser: Any, evaluation: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    with opened(browser, evaluation, request.param) as shown:
        yield shown


def test_nothing_overflows_to_the_side(page: Any) -> None:
    require_no_overflow(page)


def test_the_slider_moves_the_clip(page: Any) -> None:
    def clip() -> str:
        return page.evaluate("getComputedStyle(document.querySelector('.over')).clipPath")

    assert clip() == "inset(0px 0px 0px 50%)"
    page.locator(".split").first.focus()
    page.keyboard.press("Home")
    assert clip() in ("inset(0px)", "inset(0px 0px 0px 0%)")
    page.keyboard.press("End")
    assert clip() == "inset(0px 0px 0px 100%)"


def test_the_filter_filters(page: Any) -> None:
    page.fill("#filter", "cat SNOW")
    assert page.locator(".prompt:visible h3").all_inner_texts() == [
        "a red cat in the snow · seed 0"
    ]
    assert page.inner_text("#found") == "1 of 4 prompts"
    page.fill("#filter", "")
    assert page.locator(".prompt:visible").count() == 4


def test_the_arrows_move_the_step_of_all_rows(page: Any) -> None:
    names = page.locator(".lora-name")
    assert names.all_inner_texts() == ["step 200"] * 4
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#state") == "1"
    # no picture of that step was drawn for the last two prompts: the nearest is shown and named
    assert names.all_inner_texts() == ["step 150"] * 2 + ["step 200"] * 2
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # stays at the first
    assert page.inner_text("#state-name") == "step 75 ★"
    page.locator("#state").focus()
    page.keyboard.press("End")
    assert names.all_inner_texts() == ["step 200"] * 4


def test_a_click_enlarges_and_the_arrows_turn(page: Any) -> None:
    page.locator(".prompt .frame").first.click()
    assert page.inner_text("#viewer p").startswith("step 200: a red cat")
    sides = page.locator("#viewer img")
    left, right = (sides.nth(place).bounding_box() for place in (0, 1))
    assert page.locator("#viewer figcaption").all_inner_texts() == ["base", "step 200"]
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    assert min(left["width"], right["width"]) > 150
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer p").startswith("step 150: a red cat")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#viewer p").startswith("step 150: a blue cat")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # stays at the first
    assert page.inner_text("#viewer p").startswith("step 150: a red cat")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_a_picture_has_its_numbers(page: Any) -> None:
    first = page.locator(".prompt").first.locator(".numbers")
    assert [text.split("\n") for text in first.all_inner_texts()] == [
        ["face 1.300", "CLIP 80.00"],
        ["face 0.400", "CLIP 80.00"],
    ]
    assert page.locator(".faceless").count() == 2 * (len(PROMPTS) - 1)
    page.locator(".prompt .frame").nth(1).click()
    assert page.inner_text("#viewer p").endswith("(CLIP score 80.00, no face)")


def test_the_names_of_the_scores_stay_in_view(page: Any) -> None:
    def left() -> float:
        return page.locator("#scores tbody th").nth(1).bounding_box()["x"]

    page.get_by_text("All scores, one row each").click()
    before = left()
    page.evaluate("document.querySelector('#scores .scroll').scrollLeft = 150")
    assert left() == before


def test_pairs_and_copies_are_shown(page: Any) -> None:
    assert page.locator("#nearest .flag").is_visible()
    assert page.locator("#nearest .pair img").count() == 6
    page.get_by_text("The most alike pairs").click()
    page.locator("#nearest .pair button").nth(1).click()
    assert page.inner_text("#viewer p") == "training picture " + "v" * 100
    assert page.locator("#viewer img").bounding_box()["width"] > 300
    page.keyboard.press("ArrowRight")  # there is none to turn to
    assert page.inner_text("#viewer p").startswith("training picture")


def test_charts_in_a_closed_part_are_drawn_when_it_is_opened(page: Any) -> None:
    chart = page.locator("#chart-several_faces")
    assert not chart.is_visible()
    page.get_by_text("More curves").click()
    chart.locator("canvas").first.wait_for()
    assert chart.locator("canvas").first.bounding_box()["width"] > 200


def test_an_evaluation_compares_its_rows_with_the_base(evaluation_page: Any) -> None:
    names = evaluation_page.locator(".lora-name")
    assert names.all_inner_texts() == ["a_lora_with_a_long_name_6 x0.6"] * 2
    assert evaluation_page.locator(".base-name").all_inner_texts() == ["base"] * 2
    evaluation_page.keyboard.press("ArrowLeft")
    assert names.all_inner_texts() == ["a_lora_with_a_long_name_5 x0.6"] * 2
    assert evaluation_page.inner_text("#state-name") == "a_lora_with_a_long_name_5 x0.6"
    evaluation_page.locator(".strip button").nth(2).click()
    assert evaluation_page.inner_text("#viewer p").startswith("a_lora_with_a_long_name_1 x0.6: ")


def test_nothing_of_an_evaluation_overflows_to_the_side(evaluation_page: Any) -> None:
    require_no_overflow(evaluation_page)
    assert evaluation_page.locator("#scores tbody tr").count() == 8
    assert evaluation_page.locator(".chart").count() == 1


def test_the_copy_button_copies(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".copy")
    page.locator(".copy", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("sdlora train sampling.")


def test_the_first_screen_is_short_of_stops_and_large_enough(page: Any) -> None:
    """Focus stops, size of what is pressed in px, and size of text in px."""
    seen = page.evaluate(
        """() => {
          const shown = (each) => each.checkVisibility();
          const stops = [...document.querySelectorAll("a, button, input, summary, [tabindex='0']")]
            .filter((each) => shown(each) && each.tabIndex >= 0);
          const pressed = stops.filter((each) => !each.matches(".skip, [tabindex='0']"));
          const texts = [...document.querySelectorAll("body *")].filter((each) => shown(each)
            && [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
          return [
            stops.length,
            Math.min(...pressed.map((each) => each.getBoundingClientRect().height)),
            Math.min(...texts.map((each) => parseFloat(getComputedStyle(each).fontSize))),
          ];
        }"""
    )
    assert seen[0] < 60
    assert seen[1] >= 24
    assert seen[2] >= 12
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the skip link is the first stop
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_page_of_a_killed_run_says_so_when_it_is_looked_at(
    browser: Any, report: Path, tmp_path: Path
) -> None:
    running = tmp_path / "running.html"
    state = RunState(RUNNING, go_on="sdlora train resume=a")
    running.write_bytes(write_html_report(report.parent, state).read_bytes())
    write_html_report(report.parent)
    with opened(browser, running, 1280) as page:
        assert not page.locator("#silent").is_visible()
        assert page.inner_text("#age").endswith("s ago.")
    text = running.read_text("utf-8")
    old = re.sub(r'data-written="[0-9.]+"', 'data-written="1700000000"', text)
    running.write_text(old, "utf-8")
    with opened(browser, running, 1280) as page:
        page.locator("#silent").wait_for()
        assert "days ago" in page.inner_text("#silent")
        assert page.inner_text("#go-on code") == "sdlora train resume=a"


def test_dark_is_dark_also_in_the_charts(page: Any) -> None:
    colours = """[getComputedStyle(document.body).backgroundColor,
        [...Bokeh.documents[0]._all_models.values()]
        .find((model) => model.type === 'LinearAxis').major_label_text_color]"""
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    # charts follow by an event of their own; a colour that stays what it was ends in an error
    page.wait_for_function(f"light => {colours}.every((now, i) => now !== light[i])", arg=light)
