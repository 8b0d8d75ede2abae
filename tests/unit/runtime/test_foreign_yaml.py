"""YAML of others: small files that stand for more than any memory holds are refused at once."""

from pathlib import Path

import pytest

from sdlora.runtime import foreign_yaml
from sdlora.runtime.foreign_yaml import ForeignYamlError, read_yaml


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, "utf-8")
    return path


def test_plain_content_and_a_few_aliases_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &x [1, 2.5, null]\nb: *x\nc: text\n")
    assert read_yaml(path) == {"a": [1, 2.5, None], "b": [1, 2.5, None], "c": "text"}


def test_aliases_of_aliases_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = written(tmp_path, "\n".join(lines))
    assert path.stat().st_size < 1000
    with pytest.raises(ForeignYamlError, match="more than 10000000 values"):
        read_yaml(path)


def test_what_contains_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignYamlError, match="values, aliases followed"):
        read_yaml(written(tmp_path, "&a [*a, *a]\n"))


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system [id]", "\t- x"])
def test_no_yaml_and_code_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ForeignYamlError):
        read_yaml(written(tmp_path, text))


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_yaml, "MOST_BYTES", 3)
    with pytest.raises(ForeignYamlError, match="has 5 bytes, more than 3"):
        read_yaml(written(tmp_path, "a: 1\n"))
