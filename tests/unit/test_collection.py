"""Every test file on the disk is collected: pytest skips folders with names such as ``build``."""

import subprocess
import sys
from pathlib import Path

LIST_FILES = """
import sys
import pytest

class Listing:
    def pytest_pycollect_makemodule(self, module_path, parent):
        print("collected:", module_path.relative_to(parent.config.rootpath).as_posix())
        class Nothing(pytest.Module):
            def collect(self):
                return []
        return Nothing.from_parent(parent, path=module_path)

sys.exit(pytest.main(["--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider"], [Listing()]))
"""
"""Prints the files that ``pytest`` without arguments finds, and imports none of them."""


def test_pytest_collects_every_test_file_on_the_disk(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST_FILES],
        cwd=repository,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    lines = done.stdout.splitlines()
    collected = {line.partition(": ")[2] for line in lines if line.startswith("collected: ")}
    found = (repository / "tests").rglob("test_*.py")
    on_disk = {path.relative_to(repository).as_posix() for path in found}
    assert len(on_disk) > 100, done.stdout + done.stderr
    assert collected == on_disk
