"""Captions are read whole, refused with a reason, and their cuts are quoted."""

from pathlib import Path

import pytest

from sdlora.data.captions import MAX_CAPTION_BYTES, CaptionError, Sample, cut_report, read_caption


def write(folder: Path, data: bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"a man", "a man"),
        (b"\xef\xbb\xbfa man\r\n", "a man"),  # byte order mark, CRLF
        (b"a man\n\n  in a red hat \r\nsmiling", "a man in a red hat smiling"),
        ("الرجل".encode(), "الرجل"),
        ("a café".encode(), "a café"),
    ],
)
def test_all_lines_are_one_caption(tmp_path: Path, data: bytes, caption: str) -> None:
    assert read_caption(write(tmp_path, data)) == caption


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        ("\u200b".encode(), "empty"),  # a zero-width space shows nothing
        (b"a caf\xe9", "byte 0xe9 at offset 5"),
        ("a man".encode("utf-16"), "UTF-16"),
        (b"a\0man", "NUL"),
        (b"a man<|endoftext|> in a hat", r"<\|endoftext\|>"),
        (b"a" * (MAX_CAPTION_BYTES + 1), "65537 bytes"),
    ],
)
def test_what_is_no_caption_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(CaptionError, match=reason):
        read_caption(write(tmp_path, data))


def test_cut_report_names_file_and_loss() -> None:
    samples = [Sample("a.png", "long"), Sample("b.png", "short"), Sample("c\n.png", "long")]
    assert cut_report(samples, [" in a hat", "", "x"]) == [
        'a.png: too long for the tokenizer, which does not see "in a hat"',
        "'c\\n.png': too long for the tokenizer, which does not see \"x\"",
    ]
    with pytest.raises(ValueError, match="shorter"):
        cut_report(samples, [""])
