"""The check's file holds everything, its print-out is short, and errors stop the run at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdlora.data.pictures.cuts import fitted
from sdlora.data.pictures.picture import REMOVED, WARNING, Finding, Picture
from sdlora.data.sheet.data_sheet import Row, Sheet, row, sheet
from sdlora.data.sheet.sheet_output import (
    SCHEMA,
    changed_pictures,
    print_sheet,
    refuse,
    write_sheet,
)
from sdlora.data.sources.picture_source import DataError
from sdlora.runtime.progress import Progress


def rows(count: int, size: tuple[int, int] = (96, 64), **more) -> list[Row]:
    pictures = [
        Picture(f"{i:03}.png", size, f"caption {i}", f"{i:064x}", **more) for i in range(count)
    ]
    return [row(p, fitted(p.size, (64, 64)), p.text) for p in pictures]


def many(count: int, kind: str, severity: str) -> list[Finding]:
    return [Finding(f"{i:03}.png", kind, f"is {kind}; fix it", severity) for i in range(count)]


def printed(sheet: Sheet, capsys: pytest.CaptureFixture[str], **options) -> list[str]:
    print_sheet(sheet, Progress(enabled=False), **options)
    return capsys.readouterr().out.splitlines()


def test_the_file_holds_everything(tmp_path: Path) -> None:
    findings = [Finding("bad.png", "unreadable", "cannot be decoded")]
    got = sheet(rows(2, repeats=3), findings, ["a note"], [("caption", 2)], 4, [(1, 2, 3, 4), None])
    write_sheet(tmp_path / "run" / "dataset.json", got)
    text = (tmp_path / "run" / "dataset.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "schema": SCHEMA,
        "content": got.content,
        "counts": got.counts,
        "frequent_words": [["caption", 2]],
        "faces": {"found": 1, "of": 2},
        "buckets": [
            {
                "size": [64, 64],
                "pictures": 2,
                "samples": 6,
                "batches": 2,
                "mean_cut": 0.333333,
                "max_cut": 0.333333,
                "enlarged": 0,
            }
        ],
        "findings": [
            {
                "name": "bad.png",
                "kind": "unreadable",
                "reason": "cannot be decoded",
                "severity": "error",
            }
        ],
        "held_out": [],
        "notes": ["a note"],
        "pictures": [
            {
                "name": f"00{i}.png",
                "size": [96, 64],
                "bucket": [64, 64],
                "resized": [96, 64],
                "crop": [16, 0, 80, 64],
                "cut": 0.333333,
                "enlarged": 1,
                "caption": f"caption {i}",
                "text": f"caption {i}",
                "prefix": "",
                "repeats": 3,
                "loss_weight": 1,
                "has_mask": False,
                "mask": "",
                "content": f"{i:064x}",
                "face": [[1, 2, 3, 4], None][i],
            }
            for i in range(2)
        ],
    }
    assert sum(line.startswith('    {"name": "0') for line in text.splitlines()) == 2


def test_what_changed_since_a_sheet_is_named(tmp_path: Path) -> None:
    path, own = tmp_path / "dataset.json", rows(6)
    write_sheet(path, sheet(own, [], [], [], 4))
    before = [each.picture for each in own]
    assert changed_pictures(path, before) == []
    now = [
        replace(before[0], text="another"),
        replace(before[1], prefix="sks, "),
        replace(before[2], content="f" * 64, repeats=2),
        replace(before[3], mask_content="m"),
        replace(before[4], loss_weight=0.5),
        replace(before[5], name="new.png"),
    ]
    assert changed_pictures(path, now) == [
        "changed caption: 000.png",
        "changed caption: 001.png",
        "changed loss weight: 004.png",
        "changed mask: 003.png",
        "changed repeats: 002.png",
        "changed: 002.png",
        "gone: 005.png",
        "new: new.png",
    ]
    stored = json.loads(path.read_text("utf-8"))
    for entry in stored["pictures"]:
        del entry["text"], entry["prefix"], entry["mask"]  # as older versions wrote it
    path.write_text(json.dumps(stored), "utf-8")
    assert changed_pictures(path, before) == []


def test_a_file_of_no_pictures(tmp_path: Path) -> None:
    write_sheet(tmp_path / "dataset.json", sheet([], [], [], [], 4))
    got = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert got["pictures"] == got["buckets"] == got["notes"] == got["findings"] == []
    assert got["faces"] is None


def test_any_name_and_caption_can_be_written(tmp_path: Path) -> None:
    names = ["a\udc80.png", 'quo"te.png', "line\nbreak.png", "ö 日本.png"]  # first: no Unicode
    pictures = [Picture(name, (64, 64), f"{name[:1]} \u2028", name) for name in names]
    shown = [row(p, fitted(p.size, (64, 64)), p.text) for p in pictures]
    write_sheet(tmp_path / "dataset.json", sheet(shown, [], [], [], 1))
    text = (tmp_path / "dataset.json").read_text(encoding="utf-8")
    assert [entry["name"] for entry in json.loads(text)["pictures"]] == names
    assert "ö 日本.png" in text


def test_the_print_out_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        *many(12, "unreadable", "error"),
        *many(33, "cut_caption", WARNING),
        *many(11, "too_small", REMOVED),
        *many(2, "no_face", WARNING),
    ]
    words = [(f"word{i}", 90 - i) for i in range(20)]
    got = sheet(rows(9), findings, ["a note"], words, 4, [(0, 0, 1, 1)] * 7 + [None] * 2)
    lines = printed(got, capsys)
    assert lines[:8] == [
        "9 pictures, 9 samples an epoch in 3 batches; 9 different captions",
        "  12 files with errors, 11 removed by filters",
        "  faces: found in 7 of 9; none in 007.png, 008.png",
        "  frequent words: " + ", ".join(f"word{i} {90 - i}" for i in range(10)),
        "  64x64: 9 pictures, 3 batches; the crop removes 33% on average, 33% at most",
        "  largest crop: 000.png, by 33%",
        "  note: a note",
        "error: unreadable (12)",
    ]
    assert lines[8:20] == [f"  {finding}" for finding in findings[:12]]
    assert lines[20] == "removed: too small (11)"
    assert lines[31:33] == ["  and 1 more; all in dataset.json", "warning: cut caption (33)"]
    assert lines[42:44] == [
        f"  {findings[21]}",
        "  and 23 more; all in dataset.json",
    ]
    assert lines[44:] == ["warning: no face (2)", *(f"  {f}" for f in findings[-2:])]


def test_errors_can_be_left_to_the_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    got = sheet(rows(1), many(3, "unreadable", "error"), [], [], 4)
    lines = printed(got, capsys, with_errors=False)
    assert lines[0] == "1 picture, 1 sample an epoch in 1 batch; 1 different caption"
    assert lines[1] == "  3 files with errors, 0 removed by filters"
    assert not any("fix it" in line for line in lines)


def test_enlarged_pictures_and_many_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for i in range(12):
        size = (64 + 16 * i, 64)
        picture = Picture(f"{i}.png", (48, 48), "", f"{i:064x}")
        shown.append(row(picture, fitted(picture.size, size), ""))
    lines = printed(sheet(shown, [], [], [], 4), capsys)
    assert "0 different captions, 12 empty" in lines[0]
    assert "1 picture, 1 batch, 1 enlarged; the crop removes" in lines[1]
    assert "  and 4 more sizes with 4 pictures; all in dataset.json" in lines
    assert "  largest enlargement: 11.png, 5 times" in lines


def test_no_picture_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(sheet([], [], [], [], 4), capsys) == [
        "0 pictures, 0 samples an epoch in 0 batches; 0 different captions"
    ]


def test_all_errors_are_refused_at_once() -> None:
    findings = [
        Finding("b.png", "unreadable", "cannot be decoded; replace it"),
        Finding("w.png", "cut_caption", "is long", WARNING),
        Finding("a.txt", "orphan", "has no picture; remove it"),
        Finding("r.png", "too_small", "is small", REMOVED),
    ]
    with pytest.raises(DataError) as refusal:
        refuse(findings)
    assert str(refusal.value).splitlines() == [
        "2 finding(s) prevent training:",
        "  a.txt: has no picture; remove it",
        "  b.png: cannot be decoded; replace it",
        "Correct these files, or set data.on_error=skip to leave them out.",
    ]
    refuse([findings[1], findings[3]])
    refuse([])
