"""``report.html``: what it shows, that foreign text stays text, its size, what may be missing."""

import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
from PIL import Image

from sdlora import html_report
from sdlora.html_charts import charts, scored_steps
from sdlora.html_pictures import MAX_PNG_BYTES, data_uri, read_gallery
from sdlora.html_report import MAX_BYTES, _score_table, write_html_report

EVIL = """</script><script>alert(1)</script><img src=x onerror='alert(2)'>"&amp;"""
PROMPTS = ("a red square", "a blue square", EVIL)
LINES = (
    {"step": 0, "base/face_distance": 1.3, "base/clip_score": 86.0},
    {"step": 10, "train/loss": 0.5},
    {"step": 75, "eval/face_distance": 0.8, "eval/clip_score": 88.0},
    {"step": 150, "eval/face_distance": 0.5, "eval/clip_score": None, "reasons": {}},
    {"step": 150, "train/loss": 0.4},
)


class Page(HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def page_of(run: Path) -> Page:
    return Page(write_html_report(run).read_text(encoding="utf-8"))


def draw(path: Path, color: str, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def write_pictures(run: Path) -> None:
    samples = run / "samples"
    names = [f"{number:03d}-0123abcd.png" for number in range(len(PROMPTS))]
    for name in names:
        draw(samples / "base" / name, "grey")
        draw(samples / "last" / name, "red")
    draw(samples / "step_0000075" / names[0], "orange")
    listed = [
        {"file": name, "text": text, "seed": 0} for name, text in zip(names, PROMPTS, strict=True)
    ]
    (samples / "prompts.json").write_text(json.dumps(listed), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write_pictures(folder)
    config = {
        "export": {"name": "my_lora"},
        "model": {"path": "embedded:tiny-sd"},
        "data": {"root": EVIL},
        "trainer": {"max_steps": 150},
    }
    rows = {
        "base": {"face_distance": 1.3, "clip_score": 86.0, "faceless": 0, "reasons": {}},
        "LoRA": {"face_distance": 0.5, "clip_score": None, "reasons": {"clip_score": EVIL}},
    }
    dataset = {
        "counts": {"pictures": 24},
        "buckets": [{"size": [64, 96], "pictures": 24, "batches": 3, "enlarged": 0}],
        "findings": [
            {"name": f"{EVIL}{n}", "kind": "cut_caption", "reason": EVIL, "severity": "warning"}
            for n in range(60)
        ],
        "notes": ["held_out is held out"],
    }
    stored = {
        "config.json": {"config": config, "hashes": {"data": "3262"}},
        "report.json": {
            "scores": rows,
            "real_pictures": {"face_distance": 0.18},
            "gap_closed": {"base": 0.0, "LoRA": 0.714},
        },
        "dataset.json": dataset,
        "best/scores.json": {"step": 75, "scores": {}},
    }
    for name, value in stored.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(
        '- lora.r=16\n- "data.root=my photos"\n- resume=outputs/a\n', encoding="utf-8"
    )
    draw(folder / "contact_sheet.png", "white", (2000, 500))
    return folder


def test_it_shows_what_the_folder_holds(run: Path) -> None:
    page = page_of(run)
    for text in ("my_lora", "embedded:tiny-sd", "0.500", "-0.800", "71%", "real pictures"):
        assert text in page.text, text
    for text in ("64 × 96", "cut caption (60)", "and 20 more", "held_out is held out"):
        assert text in page.text, text
    assert "python train.py lora.r=16 'data.root=my photos'" in page.text
    assert "resume=outputs/a" not in page.text


def test_the_table_shows_intervals_and_which_way_is_better() -> None:
    base = {"face_distance": 1.25, "copying": 0.5, "copying_yardstick": 0.7, "intervals": {}}
    lora = {**base, "face_distance": 0.5, "intervals": {"face_distance": [0.4, 0.7]}}
    table = _score_table({"scores": {"base": base, "LoRA": lora}, "gap_closed": {"LoRA": 0.75}})
    assert table is not None
    assert table["columns"] == [("face distance", "↓"), ("copying", "↓"), ("gap closed", "↑")]
    assert table["rows"][1][1] == [
        ("0.500 ± 0.150", "-0.750", "better"),
        ("0.500", "", ""),
        ("75%", "", ""),
    ]


def test_a_row_has_its_pictures_by_step(run: Path) -> None:
    page = page_of(run)
    steps = [button["data-step"] for button in page.all("button") if "data-step" in button]
    assert steps == ["base", "75", "150", "base", "150", "base", "150"]
    slider = next(element for element in page.all("input") if element.get("id") == "step")
    assert json.loads(slider["data-steps"] or "") == [75, 150]
    assert slider["data-best"] == "75"


def test_foreign_text_stays_text(run: Path) -> None:
    page = page_of(run)
    assert page.text.count("alert(1)") >= 5
    scripts = page.all("script")
    assert len(scripts) == 2 + len(charts(LINES, 75))  # ours, the library, the charts' numbers
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))


def test_it_fetches_nothing_and_runs_only_its_own_scripts(run: Path) -> None:
    page = page_of(run)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert "unsafe-eval" not in policy
    allowed = ("data:", "#")
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(allowed)


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "This run has no final scores." in page.text
    assert "This run has no pictures." in page.text
    assert len(page.all("script")) == 1  # no charts, no library


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "report.json",
        "dataset.json",
        "best/scores.json",
        "metrics.jsonl",
        "contact_sheet.png",
        ".hydra/overrides.yaml",
        "samples/prompts.json",
        "samples/base/000-0123abcd.png",
    ],
)
def test_a_part_may_be_missing_or_broken(run: Path, name: str) -> None:
    (run / name).write_text("{ broken: [\n", encoding="utf-8")
    page = page_of(run)
    assert f"{name} cannot be read" in page.text
    (run / name).unlink()
    assert "cannot be read" not in page_of(run).text


@pytest.mark.parametrize("name", ["config.json", "report.json", "dataset.json", "best/scores.json"])
@pytest.mark.parametrize("content", ["[]", '{"scores": [1], "config": 3, "counts": 4}'])
def test_other_json_is_no_crash(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content, encoding="utf-8")
    assert page_of(run).all("h1")


def test_without_prompts_json_the_file_names_are_shown(run: Path) -> None:
    (run / "samples" / "prompts.json").unlink()
    assert "000-0123abcd" in page_of(run).text


def test_a_name_outside_the_folder_is_not_followed(run: Path) -> None:
    draw(run / "secret.png", "green")
    listed = [{"file": "../../secret.png", "text": "out", "seed": 0}]
    (run / "samples" / "prompts.json").write_text(json.dumps(listed), encoding="utf-8")
    gallery = read_gallery(run / "samples", 150, MAX_BYTES)
    assert "out" not in [row.text for row in gallery.rows]


def test_a_name_that_is_no_unicode_is_written(run: Path) -> None:
    text = '{"findings": [{"name": "a\\udcff.png", "kind": "x", "reason": "y", "severity": "z"}]}'
    (run / "dataset.json").write_text(text, encoding="utf-8")
    assert "a\\udcff.png" in page_of(run).text


def test_large_pictures_are_reduced_and_small_drawn_ones_stay_exact(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (900, 600, 3), dtype=numpy.uint8)
    (tmp_path / "last").mkdir()
    Image.fromarray(noise).save(tmp_path / "last" / "000-a.png")
    draw(tmp_path / "last" / "001-b.png", "#123456")
    large, small = (row.pictures[0] for row in read_gallery(tmp_path, 1, MAX_BYTES).rows)
    assert (large.width, large.height) == (256, 384)
    assert large.uri.startswith("data:image/jpeg;base64,")
    exact = Image.open(io.BytesIO(base64.b64decode(small.uri.partition(",")[2])))
    assert (exact.format, exact.size) == ("PNG", (32, 32))
    assert exact.convert("RGB").getpixel((0, 0)) == (0x12, 0x34, 0x56)
    assert len(data_uri(Image.fromarray(noise[:192, :192]))) > MAX_PNG_BYTES  # then JPEG


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=numpy.uint8)
    folders = ["base", "last"] + [f"step_{step:07d}" for step in range(10, 130, 10)]
    for folder in folders:
        for number in range(4):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / folder / f"{number:03d}-a.png")
    reduced = read_gallery(tmp_path, 130, 56 * 60_000)
    assert len(reduced.rows) == 4
    assert len(reduced.steps) == 13
    assert "reduced to" in reduced.notes[0]
    fewer = read_gallery(tmp_path, 130, 200_000)
    assert sum(len(picture.uri) for row in fewer.rows for picture in row.pictures) <= 200_000
    assert fewer.steps[-1] == 130  # the last stays
    assert "of 13 steps are shown" in fewer.notes[1]
    assert "of 4 prompts are shown" in fewer.notes[2]
    none = read_gallery(tmp_path, 130, 10)
    assert (none.rows, len(none.notes)) == ([], 1)


def test_the_page_keeps_its_size(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(run / "contact_sheet.png")
    monkeypatch.setattr(html_report, "_PICTURES_BYTES", 50_000)
    for file in (run / "samples").glob("*/*.png"):
        Image.fromarray(noise[:512, :512]).save(file)
    assert write_html_report(run).stat().st_size < 4_500_000  # library, sheet of 2 MiB, pictures
    assert html_report._SHEET_BYTES + 9 * 2**20 + 2 * 2**20 < MAX_BYTES


def test_charts_are_those_that_the_numbers_give() -> None:
    assert [chart.name for chart in charts(LINES, 75)] == [
        "loss",
        "face_distance",
        "clip_score",
        "trade_off",
    ]
    assert [chart.name for chart in charts(LINES[:2], None)] == ["loss"]
    assert charts([], None) == []


def test_scored_steps_keep_what_is_missing_missing() -> None:
    assert scored_steps(LINES) == [(75, 0.8, 88.0), (150, 0.5, None)]


def test_a_long_curve_is_averaged() -> None:
    lines = [{"step": step, "train/loss": float(step)} for step in range(1, 5001)]
    assert len(json.dumps(charts(lines, None)[0].item)) < 60_000
