"""``report.html`` in a browser: headless Chromium, where it and playwright are installed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdlora.html_report import write_html_report

EVIL = """a dog </script><script>alert(1)</script><img src=x onerror='alert(2)'>"""
PROMPTS = ("a red cat in the snow", "a blue cat", EVIL, "x" * 300)
STEPS = (75, 150)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS_PX = (390, 1280)


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
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    scores = {"face_distance": 1.3, "clip_score": 86.0, "faceless": 0, "num_pictures": 25}
    stored = {
        "best/scores.json": {"step": 75},
        "report.json": {"scores": {"base": scores, "LoRA": {**scores, "face_distance": 0.4}}},
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=WIDTHS_PX)
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The opened page; what it wrote to the console, its errors and requests must be none."""
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(f"a script ran: {dialog.message}"))
    opened.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    opened.on(
        "request",
        lambda r: None if r.url.startswith(("data:", "file:")) else wrong.append(r.url),
    )
    opened.goto(report.as_uri())
    for chart in opened.locator(".chart").all():  # functions to wait for need eval: not allowed
        chart.locator("> *").wait_for()
    yield opened
    opened.close()
    assert wrong == []


def test_nothing_overflows_to_the_side(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


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
    assert page.input_value("#step") == "1"
    # no picture of that step was drawn for the last two prompts: the nearest is shown and named
    assert names.all_inner_texts() == ["step 150"] * 2 + ["step 200"] * 2
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # stays at the first
    assert page.inner_text("#step-name") == "75 ★"
    page.locator("#step").focus()
    page.keyboard.press("End")
    assert names.all_inner_texts() == ["step 200"] * 4


def test_a_click_enlarges_and_the_arrows_turn(page: Any) -> None:
    page.locator(".prompt .frame").first.click()
    assert page.inner_text("#viewer p").startswith("step 200: a red cat")
    assert page.locator("#viewer img").bounding_box()["width"] > 300
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer p").startswith("step 150: a red cat")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_the_copy_button_copies(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    page.locator("#copy", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("python train.py sampling.")


def test_dark_is_dark_also_in_the_charts(page: Any) -> None:
    def look() -> list[str]:
        return page.evaluate(
            """[getComputedStyle(document.body).backgroundColor,
            [...Bokeh.documents[0]._all_models.values()]
            .find((model) => model.type === 'LinearAxis').major_label_text_color]"""
        )

    light = look()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert look() != light
    assert look()[1] != light[1]
