"""The pinned versions of ``constraints.txt``, against ``pyproject.toml`` and the oldest Python."""

import importlib.metadata
import tomllib

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.places import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
LINES = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]
PYTHONS = ("3.11.0", "3.11.2", "3.11.7", "3.12.1", "3.13.0", "3.14.0")


def pinned(python: str) -> list[Requirement]:
    """The pins that count for that Python."""
    names = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    return [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(names)]


def version(pin: Requirement) -> Version:
    (only,) = pin.specifier
    return Version(only.version)


def test_a_pin_is_one_version_and_its_only_condition_is_the_python() -> None:
    for pin in PINS:
        assert [one.operator for one in pin.specifier] == ["=="], pin
        assert not version(pin).local, f"{pin}: a build tag leaves out the version's other wheels"
        assert not pin.extras, pin
        assert not pin.url, pin
        assert pin.marker is None or str(pin.marker).startswith("python_"), pin


def test_each_package_that_the_project_asks_for_has_one_version_within_the_bounds() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(text) for group in groups for text in group]
    for python in PYTHONS:
        pins = {canonicalize_name(pin.name): version(pin) for pin in pinned(python)}
        assert len(pins) == len(pinned(python)), f"a package is named twice for Python {python}"
        for need in wanted:
            if need.name != PROJECT["name"]:
                pin = pins.get(canonicalize_name(need.name))
                assert pin is not None, f"{need} is not pinned for Python {python}"
                assert pin in need.specifier, f"{need}: {pin} for Python {python}"


def test_no_pinned_version_needs_a_later_python_than_the_project() -> None:
    """Read from what is installed here, where that is the pinned version."""
    (lowest,) = SpecifierSet(PROJECT["requires-python"])
    oldest = f"{lowest.version}.0"
    installed = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    read, late = 0, []
    for pin in pinned(oldest):
        found = installed.get(canonicalize_name(pin.name))
        if found is not None and found.version in pin.specifier:
            read += 1
            needs = found.metadata.get("Requires-Python", "")
            if oldest not in SpecifierSet(needs):
                late.append(f"{pin} needs Python {needs}")
    assert read > 20, "the tests do not run in an environment of the pinned versions"
    assert not late
