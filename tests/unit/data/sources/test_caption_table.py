"""Tables of captions: every row is either a caption or a finding with its line."""

import json
from pathlib import Path

import pytest

from sdlora.data.pictures.picture import ERROR, WARNING
from sdlora.data.sources.caption_table import Row, columns_of, is_table, read_metadata
from sdlora.data.sources.table_rows import Columns, RowFault


def jsonl(*rows: dict[str, object] | str) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def read(folder: Path, data: bytes, name: str = "metadata.jsonl") -> tuple[dict[str, Row], list]:
    path = folder / name
    path.write_bytes(data)
    return read_metadata(path)


PLAIN = {"a.png": Row(1, "red"), "b/c.png": Row(2, "two\nlines, ü")}
TWO_ROWS = jsonl(
    {"file_name": "a.png", "text": "red"},
    {"file_name": "b/c.png", "text": "two\nlines, ü", "other": [1]},
)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_rows_of_jsonl(tmp_path: Path, mark: bytes, end: bytes) -> None:
    assert read(tmp_path, mark + TWO_ROWS.replace(b"\n", end) + end + end) == (PLAIN, [])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_rows_of_csv(tmp_path: Path, mark: bytes, end: str) -> None:
    lines = ["text,other,file_name", "red,,a.png", "", '"two', 'lines, ü",1,b/c.png', ""]
    rows, faults = read(tmp_path, mark + end.join(lines).encode(), "metadata.csv")
    assert rows == {"a.png": Row(2, "red"), "b/c.png": Row(4, "two\nlines, ü")}
    assert faults == []


def test_a_json_string_may_hold_any_line_separator(tmp_path: Path) -> None:
    row = json.dumps({"file_name": "a.png", "text": "one\u2028two"}, ensure_ascii=False)
    rows, faults = read(tmp_path, row.encode())
    assert rows == {"a.png": Row(1, "one\ntwo")}
    assert faults == []


@pytest.mark.parametrize("name", ["./caf\u00e9.png", "cafe\u0301.png", ".//caf\u00e9.png"])
def test_names_are_normalised(tmp_path: Path, name: str) -> None:
    rows, _ = read(tmp_path, jsonl({"file_name": name, "text": "x"}))
    assert list(rows) == ["caf\u00e9.png"]


def test_a_name_written_on_windows(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, jsonl({"file_name": "sub\\a.png", "text": "x"}))
    assert list(rows) == ["sub/a.png"]


GOOD = '{"file_name": "good.png", "text": "good"}'


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ('{"file_name": ', "bad_row", "line 2: is not JSON (Expecting value)"),
        ("[" * 100_000, "bad_row", "line 2: is not JSON"),
        ("[1]", "bad_row", "line 2: has no file_name and no text"),
        ('{"file_name": "a.png"}', "bad_row", "line 2: has no text"),
        ('{"text": "red"}', "bad_row", "line 2: has no file_name"),
        ('{"file_name": null, "text": "red"}', "bad_row", "line 2: file_name names no file"),
        ('{"file_name": " ", "text": "red"}', "bad_row", "line 2: file_name names no file"),
        ('{"file_name": "../a.png", "text": "red"}', "outside", "line 2: ../a.png leads out of"),
        ('{"file_name": "b/../../a.png", "text": "x"}', "outside", "line 2: b/../../a.png leads"),
        ('{"file_name": "b\\\\..\\\\a.png", "text": "x"}', "outside", "line 2: b/../a.png leads"),
        ('{"file_name": "/etc/a.png", "text": "red"}', "outside", "line 2: /etc/a.png leads out"),
        ('{"file_name": "C:\\\\a.png", "text": "red"}', "outside", "line 2: C:/a.png leads out"),
    ],
)
def test_a_row_that_names_no_picture(tmp_path: Path, row: str, kind: str, reason: str) -> None:
    rows, (fault,) = read(tmp_path, jsonl(GOOD, row, GOOD.replace("good", "fine")))
    assert rows == {"good.png": Row(1, "good"), "fine.png": Row(3, "fine")}
    assert (fault.kind, fault.severity) == (kind, ERROR)
    assert fault.reason.startswith(reason)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (None, "bad_row", "line 1: text of a.png is no text"),
        (7, "bad_row", "line 1: text of a.png is no text"),
        (" \n", "bad_caption", "line 1: text of a.png is empty"),
        ("a\0b", "bad_caption", "line 1: text of a.png holds a NUL"),
        ("\ud800", "bad_caption", "line 1: text of a.png holds half a surrogate pair"),
        ("<|endoftext|>", "bad_caption", "line 1: text of a.png holds <|endoftext|>"),
        ("word " * 20_000, "bad_caption", "line 1: text of a.png holds 100000 bytes"),
    ],
)
def test_a_row_whose_text_is_no_caption(
    tmp_path: Path, text: object, kind: str, reason: str
) -> None:
    rows, (fault,) = read(tmp_path, jsonl({"file_name": "a.png", "text": text}))
    assert rows == {"a.png": Row(1, None)}
    assert fault.kind == kind
    assert fault.reason.startswith(reason)


def test_double_rows(tmp_path: Path) -> None:
    texts = [("a", "red"), ("b", "one"), ("a", "red"), ("b", "two"), ("b", "two")]
    data = jsonl(*({"file_name": f"{name}.png", "text": text} for name, text in texts))
    rows, faults = read(tmp_path, data)
    assert rows == {"a.png": Row(1, "red"), "b.png": Row(2, None)}
    assert [(fault.kind, fault.severity, fault.reason.split(";")[0]) for fault in faults] == [
        ("duplicate_row", WARNING, "line 3: a.png has the same text in line 1"),
        ("duplicate_row", ERROR, "line 4: b.png has another text in line 2"),
        ("duplicate_row", ERROR, "line 5: b.png has another text in line 2"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has no column file_name and no column text (its first line: nothing)"),
        (b"file_name|text\na.png|red\n", "has no column file_name and no column text (its first"),
        (b"file_name,words\na.png,red\n", "has no column text (its first line: file_name, wor"),
        (b"file_name,caption,prompt\na.png,red,blue\n", "has no column text (its first line: "),
        ("file_name,text\na.png,red\n".encode("utf-16"), "is UTF-16"),
        (b"file_name,text\na.png,caf\xe9\n", "line 2: is not UTF-8: byte 0xe9 at offset 24"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, data: bytes, reason: str) -> None:
    rows, (fault,) = read(tmp_path, data, "METADATA.CSV")
    assert rows == {}
    assert fault.kind == "bad_table"
    assert fault.reason.startswith(reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,a man, smiling", "line 3: has 3 values for 2 columns; put a text with commas in"),
        ("a.png", "line 3: has 1 values for 2 columns"),
        ('a.png,"quoted" and not', "line 3: ',' expected after '\"'"),
        (f"a.png,{'x' * 200_000}", "line 3: field larger than field limit"),
    ],
)
def test_a_csv_row_that_is_not_one(tmp_path: Path, row: str, reason: str) -> None:
    data = f"file_name,text\nb.png,blue\n{row}\nc.png,green\n".encode()
    rows, (fault,) = read(tmp_path, data, "metadata.csv")
    assert rows == {"b.png": Row(2, "blue"), "c.png": Row(4, "green")}
    assert fault.kind == "bad_row"
    assert fault.reason.startswith(reason)


def test_a_quote_left_open_swallows_no_row_unseen(tmp_path: Path) -> None:
    data = b'file_name,text\na.png,red\nb.png,"blue\nc.png,green\n'
    rows, faults = read(tmp_path, data, "metadata.csv")
    assert rows == {"a.png": Row(2, "red")}
    assert faults == [RowFault("bad_row", "line 3: unexpected end of data; correct its quotes")]


@pytest.mark.parametrize(
    ("name", "data", "columns"),
    [
        ("metadata.csv", b"file_name,prompt\na.png,red\n", Columns("file_name", "prompt")),
        ("captions.csv", b"image,caption\na.png,red\n", Columns("image", "caption")),
        ("metadata.csv", b"file_name;prompt\na.png;red\n", Columns("file_name", "prompt")),
        ("excel.csv", b'"image";"caption"\n"a.png";"red"\n', Columns("image", "caption")),
        ("tabs.csv", b"image\tcaption\na.png\tred\n", Columns("image", "caption")),
        ("list.tsv", b"path\tid\ttext\na.png\t1\tred\n", Columns("path", "text")),
        ("x.jsonl", jsonl({"prompt": "red", "file": "a.png"}), Columns("file", "prompt")),
        ("two.csv", b"image,caption,prompt\na.png,red,blue\n", None),
        ("none.csv", b"image,score\na.png,1\n", None),
        ("no.jsonl", b"[1]", None),
        ("no.csv", b"\xff\xfea", None),
    ],
)
def test_columns_of_customary_names(
    tmp_path: Path, name: str, data: bytes, columns: Columns | None
) -> None:
    (tmp_path / name).write_bytes(data)
    assert columns_of(tmp_path / name) == columns
    if columns is not None:
        rows, faults = read_metadata(tmp_path / name, columns)
        assert rows == {"a.png": Row(1 if name.endswith("jsonl") else 2, "red")}
        assert faults == []


def test_kohyas_table(tmp_path: Path) -> None:
    table = {
        "a": {"caption": "red"},
        "b.png": {"tags": "1girl, hat", "train_resolution": [512, 512]},
        "sub/c.jpg": {"caption": "blue", "tags": "sky"},
        str(tmp_path / "sub" / "d.png"): {"caption": "here"},
        "/content/drive/set/e.png": {"caption": "elsewhere"},
        "C:\\set\\f.png": {"caption": "on Windows"},
        "g.png": {},
    }
    rows, (fault,) = read(tmp_path, json.dumps(table).encode(), "meta_cap.json")
    assert {name: row.text for name, row in rows.items()} == {
        "a": "red",
        "b.png": "1girl, hat",
        "sub/c.jpg": "blue, sky",
        "sub/d.png": "here",
        "e.png": "elsewhere",
        "f.png": "on Windows",
        "g.png": None,
    }
    assert fault.reason == "line 7: text of g.png is no text; write what the picture shows"
    for data, reason in ((b"{", "is not JSON ("), (b"[1]", "is not kohya's")):
        _, (fault,) = read(tmp_path, data, "meta_cap.json")
        assert fault.kind == "bad_table"
        assert fault.reason.startswith(reason)


def test_what_is_a_table_by_its_name() -> None:
    tables = ("metadata.csv", "METADATA.JSONL", "meta_cap.json", "meta_lat.json", "metadata.json")
    assert all(map(is_table, tables))
    assert not any(map(is_table, ("a.json", "captions.csv", "meta.csv", "metadata.txt")))
