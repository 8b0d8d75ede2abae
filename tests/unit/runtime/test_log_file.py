"""Errors of a program stand in its log file, as on the console."""

import logging
from pathlib import Path

import pytest

from sdlora.runtime.log_file import write_to_log
from sdlora.runtime.program import USER_ERROR, report


def test_an_error_is_in_the_log_file_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.FileHandler(tmp_path / "train.log", encoding="utf-8")
    logging.getLogger().addHandler(handler)
    try:
        assert report(ValueError("lora.r=[0]: must be a whole number")) == USER_ERROR
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    text = (tmp_path / "train.log").read_text("utf-8")
    assert text == "error: lora.r=[0]: must be a whole number\n"
    assert text in capsys.readouterr().err


def test_without_a_log_file_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    write_to_log("a line")
    assert capsys.readouterr() == ("", "")
