"""``report.html``: what it shows, that foreign text stays text, its size, what may be missing."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from sdlora.evaluation.scores import Scores
from sdlora.reports import data_part
from sdlora.reports import page as html_report
from sdlora.reports.charts import charts
from sdlora.reports.columns import row_columns, step_columns
from sdlora.reports.gallery import Gallery, read_gallery
from sdlora.reports.nearest_pairs import read_pairs
from sdlora.reports.page import MAX_BYTES, write_html_report
from sdlora.reports.thumbnails import MAX_PNG_BYTES, data_uri

EVIL = """</script><script>alert(1)</script><img src=x onerror='alert(2)'>"&amp;"""
PROMPTS = ("a red square", "a blue square", EVIL)
LINES = (
    {"step": 0, "base/face_distance": 1.3, "base/face_distance_low": 1.2, "base/clip_score": 86.0},
    {"step": 10, "train/loss": 0.5},
    {"step": 75, "eval/face_distance": 0.8, "eval/clip_score": 88.0, "eval/aesthetic": None},
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


def scores_of(**values: Any) -> dict[str, Any]:
    return asdict(Scores(num_pictures=25, values=values))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def gallery_of(run: Path, last_step: int | None, max_bytes: int = MAX_BYTES) -> Gallery:
    return read_gallery(run, step_columns(run / "samples", last_step), max_bytes)


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
        "base": scores_of(face_distance=1.3, clip_score=86.0, faceless=0),
        "LoRA": {
            **scores_of(face_distance=0.5, clip_score=None),
            "reasons": {"clip_score": EVIL},
            "per_picture": {
                "prompt": list(PROMPTS),
                "face_distance": [0.4, None, 0.6],
                "num_faces": [1, 0, 1],
            },
        },
    }
    dataset = {
        "counts": {"pictures": 24},
        "buckets": [{"size": [64, 96], "pictures": 24, "batches": 3, "enlarged": 0}],
        "findings": [
            {"name": f"{EVIL}{n}", "kind": "cut_caption", "reason": EVIL, "severity": "warning"}
            for n in range(60)
        ],
        "notes": ["held_out: 2 held-out pictures"],
    }
    stored = {
        "config.json": {"config": config, "hashes": {"data": "3262"}},
        "report.json": {
            "scores": rows,
            "version": 2,
            "real_pictures": scores_of(face_distance=0.18),
            "gap_closed": {"base": 0.0, "LoRA": 0.714},
        },
        "dataset.json": dataset,
        "lora/scores.json": {"step": 75, "scores": {}},
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
    for text in ("64 × 96", "cut caption (60)", "and 20 more", "held_out: 2 held-out pictures"):
        assert text in page.text, text
    assert "sdlora train lora.r=16 'data.root=my photos'" in page.text
    assert "resume=outputs/a" not in page.text


def test_files_are_listed_with_what_they_are_for(run: Path) -> None:
    (run / "lora" / "my_lora.safetensors").write_bytes(b"0" * 2_500_000)
    (run / "last").mkdir()
    (run / "last" / "my_lora.safetensors").write_bytes(b"0" * 12_000)
    page = page_of(run)
    files = page.text.partition("Files")[2].rpartition("Repeat")[0]
    for text in ("lora/my_lora.safetensors", "ComfyUI and A1111", "2.5 MB", "last/", "12 kB"):
        assert text in files, text
    assert "pipeline" not in files
    assert "Chosen step" in page.text


def test_a_row_has_its_pictures_by_step(run: Path) -> None:
    page = page_of(run)
    columns = [button["data-column"] for button in page.all("button") if "data-column" in button]
    first = ["base", "step 75", "step 150"]
    assert columns == [*first, "base", "step 150", "base", "step 150"]
    slider = next(element for element in page.all("input") if element.get("id") == "state")
    assert json.loads(slider["data-columns"] or "") == ["step 75", "step 150"]
    assert slider["data-best"] == "step 75"


def test_the_numbers_of_a_picture_stand_under_it(run: Path) -> None:
    page = page_of(run)
    shown = [
        (button["data-column"], button["data-scores"])
        for button in page.all("button")
        if "data-scores" in button
    ]
    assert shown == [
        ("step 150", "face distance 0.400"),
        ("step 150", "no face"),
        ("step 150", "face distance 0.600"),
    ]
    assert page.text.count("face 0.400") == 1
    assert page.text.count("no face") == 1


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """As ``evaluate.py`` writes it."""
    folder = tmp_path / "evaluation"
    labels = {"base": "base", "my_lora x0.6": "my_lora-x0.6", "step 75": "step-75"}
    names = [f"{number:03d}-0123abcd.png" for number in range(2)]
    listed = [
        {"file": name, "text": text, "seed": 0} for name, text in zip(names, PROMPTS, strict=False)
    ]
    write_json(folder / "prompts.json", listed)
    for label in labels.values():
        for name in names:
            draw(folder / label / name, "red")
    row = scores_of(face_distance=0.5, clip_score=86.0)
    row["intervals"] = {"face_distance": [0.4, 0.7]}
    row["per_picture"] = {"prompt": list(PROMPTS[:2]), "clip_score": [85.0, 87.0]}
    config = {"run": None, "lora": ["a/my_lora.safetensors"], "model": {"path": "sd-base"}}
    report = {
        "version": 2,
        "settings": {"config": config},
        "scores": dict.fromkeys(labels, row),
        "real_pictures": None,
        "gap_closed": {},
        "pictures": labels,
    }
    write_json(folder / "report.json", report)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- lora_scale=[0.6]\n", encoding="utf-8")
    return folder


def test_an_evaluation_has_its_rows_as_columns(evaluation: Path) -> None:
    page = page_of(evaluation)
    columns = [button["data-column"] for button in page.all("button") if "data-column" in button]
    assert columns == ["base", "my_lora x0.6", "step 75"] * 2
    based = [button["data-column"] for button in page.all("button") if "data-base" in button]
    assert based == ["base"] * 2
    for text in ("a/my_lora.safetensors", "sd-base", "CLIP 85.00", "a blue square", "Trade-off"):
        assert text in page.text, text
    assert "sdlora evaluate 'lora_scale=[0.6]'" in page.text


def test_an_evaluation_names_its_run(evaluation: Path) -> None:
    report = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))
    report["settings"]["config"] |= {"run": "outputs/a", "lora": []}
    write_json(evaluation / "report.json", report)
    page = page_of(evaluation)
    assert "outputs/a" in page.text
    facts = page.text.partition("Repeat")[2].partition("Filter prompts")[0]
    assert "outputs/a" in facts


@pytest.mark.parametrize("name", ["../run/samples", "/etc", 3, None, "a\0b"])
def test_picture_folders_outside_are_not_followed(evaluation: Path, name: Any) -> None:
    notes: list[str] = []
    columns = row_columns(evaluation, {"base": "base", "LoRA": name}, "base", notes)
    assert [column.label for column in columns] == ["base"]
    assert "pictures of LoRA" in notes[0]


def test_an_evaluation_without_its_pictures_is_a_page(evaluation: Path) -> None:
    for file in evaluation.glob("*/*.png"):
        file.unlink()
    assert "This evaluation has no pictures." in page_of(evaluation).text


PAIR = {
    "picture": "samples/last/000-0123abcd.png",
    "prompt": EVIL,
    "training": "samples/nearest/00.png",
    "name": "portrait_07.png",
    "similarity": 0.93,
}


def test_the_nearest_training_pictures_are_shown(run: Path) -> None:
    draw(run / "samples" / "nearest" / "00.png", "green")
    write_json(run / "nearest.json", [PAIR])
    page = page_of(run)
    for text in ("The most alike pairs", "0.930", "portrait_07.png"):
        assert text in page.text, text
    (run / "nearest.json").unlink()
    assert "The most alike pairs" not in page_of(run).text


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"picture": "samples/last/none.png"}, "samples/last/none.png cannot be read"),
        ({"training": "../../secret.png"}, "does not lie in this folder"),
        ({"training": None}, "does not lie in this folder"),
        ({"similarity": "high"}, None),
    ],
)
def test_a_pair_that_cannot_be_shown_is_left_out(
    run: Path, changed: dict[str, Any], note: str | None
) -> None:
    draw(run / "samples" / "nearest" / "00.png", "green")
    draw(run.parent.parent / "secret.png", "green")
    write_json(run / "nearest.json", [{**PAIR, **changed}, PAIR])
    notes: list[str] = []
    assert len(read_pairs(run, notes)) == 1
    assert [note in found for found in notes if note] == ([True] if note else [])


def test_foreign_text_stays_text(run: Path) -> None:
    page = page_of(run)
    assert page.text.count("alert(1)") >= 5
    scripts = page.all("script")
    assert len(scripts) == 3 + len(charts(LINES, 75))  # the library, our two, the charts' numbers
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))


def test_it_fetches_nothing_and_runs_only_its_own_scripts(run: Path) -> None:
    page = page_of(run)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == 3
    assert "unsafe-eval" not in policy
    allowed = ("data:", "#")
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(allowed)


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "This run has no final scores." in page.text
    assert "This run has no pictures." in page.text
    assert len(page.all("script")) == 2  # no charts, no library


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "report.json",
        "dataset.json",
        "lora/scores.json",
        "metrics.jsonl",
        "contact_sheet.png",
        ".hydra/overrides.yaml",
        "nearest.json",
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


@pytest.mark.parametrize(
    "name", ["config.json", "report.json", "dataset.json", "lora/scores.json", "nearest.json"]
)
@pytest.mark.parametrize(
    "content",
    [
        *("[]", "[1, {}]", '{"scores": [1], "config": 3, "counts": 4}'),
        '{"scores": {"base": 3, "LoRA": {"values": [], "intervals": {"a": 1}}}, "pictures": [1]}',
        '{"scores": {"base": {"values": {"kid": NaN}, "per_picture": {"prompt": 3}}}}',
    ],
)
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
    gallery = gallery_of(run, 150)
    assert "out" not in [row.text for row in gallery.rows]


def test_a_name_that_is_no_unicode_is_written(run: Path) -> None:
    text = '{"findings": [{"name": "a\\udcff.png", "kind": "x", "reason": "y", "severity": "z"}]}'
    (run / "dataset.json").write_text(text, encoding="utf-8")
    assert "a\\udcff.png" in page_of(run).text


def test_large_pictures_are_reduced_and_small_drawn_ones_stay_exact(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (900, 600, 3), dtype=numpy.uint8)
    last = tmp_path / "samples" / "last"
    draw(last / "001-b.png", "#123456")
    Image.fromarray(noise).save(last / "000-a.png")
    large, small = (row.pictures[0] for row in gallery_of(tmp_path, 1).rows)
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
            (tmp_path / "samples" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(tmp_path / "samples" / folder / f"{number:03d}-a.png")
    reduced = gallery_of(tmp_path, 130, 56 * 60_000)
    assert len(reduced.rows) == 4
    assert len(reduced.compared) == 13
    assert "reduced to" in reduced.notes[0]
    fewer = gallery_of(tmp_path, 130, 200_000)
    assert sum(len(picture.uri) for row in fewer.rows for picture in row.pictures) <= 200_000
    assert fewer.compared[-1] == "step 130"  # the last stays
    assert "of 13 steps are shown" in fewer.notes[1]
    assert "of 4 prompts are shown" in fewer.notes[2]
    none = gallery_of(tmp_path, 130, 10)
    assert (none.rows, len(none.notes)) == ([], 1)


def test_the_page_keeps_its_size(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(run / "contact_sheet.png")
    monkeypatch.setattr(html_report, "_PICTURES_BYTES", 50_000)
    for file in (run / "samples").glob("*/*.png"):
        Image.fromarray(noise[:512, :512]).save(file)
    assert write_html_report(run).stat().st_size < 4_500_000  # library, sheet of 2 MiB, pictures
    assert data_part._SHEET_BYTES + 9 * 2**20 + 2 * 2**20 < MAX_BYTES
