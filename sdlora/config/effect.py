"""Conditions under which a key has an effect, declared at the key, and keys that have none.

They are declared, and not found by recording what a run reads, since code reads more than it uses
(a schedule is given ``num_cycles`` whatever its name), and since a run should say so at its start.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sdlora.config.keys import ANY_NAME, all_fields, schema_key

_WHERE = "where"

OFF: tuple[Any, ...] = (None, False, 0, "", [], {}, "none", "off", "frozen")
"""Values that switch something off: where it is off already, nothing is lost."""

COMMAND, TRAIN, EVALUATE = "the command", "train", "evaluate"
"""Entry of the values for what reads the config."""

MULTIRUN, GRID, SEARCH = "-m", "grid", "search"
"""Entry of the values for what starts several runs, which is false for one."""

TAKERS = "keys that take its value"
"""Entry of the values: those keys that take the key's value, and have an effect themselves."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What another key must be for a key to have an effect.

    Attributes:
        key: The other key; ``*`` stands for any letters, a dot in front for the key's own group.
        holds: Function of its value.
        remedy: What to set, with ``{}`` for the other key; ``None``: leave the key out.
        without: Whether it holds where there is no such other key.
        beside: Only such keys count that have this key in their group, with this value.
        meaning: The condition for the docs, with ``{}`` for the other key; ``None``: the remedy.
    """

    key: str
    holds: Callable[[Any], bool]
    remedy: str | None
    without: bool = False
    beside: tuple[str, Any] | None = None
    meaning: str | None = None

    def named(self, key: str) -> str:
        """Its key, for this one."""
        return key.rpartition(".")[0] + self.key if self.key.startswith(".") else self.key

    def about(self, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that it is about, by key."""
        pattern = self.named(key)
        found = {name: value for name, value in values.items() if fnmatchcase(name, pattern)}
        if self.beside is None:
            return found
        other, wanted = self.beside
        groups = {name: name.rpartition(".")[0] for name in found}
        return {name: found[name] for name in found if values.get(groups[name] + other) == wanted}


Alternatives = tuple[Condition, ...]


def where(*conditions: Condition | Alternatives) -> dict[str, Any]:
    """Metadata of a field that has an effect only where all of these hold; of a tuple, any."""
    return {_WHERE: tuple(each if isinstance(each, tuple) else (each,) for each in conditions)}


def of(key: str, *values: Any) -> Condition:
    """The key has one of these values; ``*`` in one stands for any letters."""
    named = " or ".join(str(value) for value in values)
    return Condition(
        key,
        lambda value: (
            value in values
            or any(fnmatchcase(str(value), each) for each in values if isinstance(each, str))
        ),
        f"{{}}={named}",
    )


def other_than(key: str, *values: Any) -> Condition:
    """The key has none of these values."""
    named = " and ".join(map(str, values))
    return Condition(
        key, lambda value: value not in values, "another {}", meaning=f"{{}} other than {named}"
    )


def given(key: str) -> Condition:
    """The key is set, and not to a value that means off."""
    return Condition(key, lambda value: value not in OFF, "{}")


def absent(key: str) -> Condition:
    """The key is not set, since it counts in place of the other."""
    return Condition(key, lambda value: value in OFF, None, without=True, meaning="no {}")


def above(key: str, limit: float) -> Condition:
    """The key is greater than this."""
    return Condition(key, lambda value: value > limit, f"{{}} above {limit:g}")


def unset(key: str, beside: tuple[str, Any]) -> Condition:
    """One of the keys is null, of those that have the other key in their group with this value."""
    missing = "a part with an adapter and no {}"
    return Condition(key, lambda value: value is None, None, beside=beside, meaning=missing)


TAKEN = Condition(TAKERS, bool, None)
"""Another key takes the value, and has an effect."""

TRAINING = of(COMMAND, TRAIN)
"""Only training reads the key."""


def reason_without_effect(
    declared: Mapping[str, tuple[Alternatives, ...]], values: Mapping[str, Any], key: str
) -> str | None:
    """Why a key has no effect, and a remedy; ``None``: it has one, or is off.

    Args:
        declared: :func:`declared_conditions` of the whole config.
        values: The value of every key, flat, with ``COMMAND``, ``MULTIRUN`` and ``TAKERS``.
        key: The key.
    """
    if values.get(key) in OFF:
        return None
    own, name = key, schema_key(key, declared)
    while name and name not in declared:  # an entry of a mapping, such as options
        own, name = own.rpartition(".")[0], name.rpartition(".")[0]
    reasons = (_unmet(own, alternatives, values) for alternatives in declared.get(name, ()))
    return next((reason for reason in reasons if reason), None)


def declared_conditions(schema: type) -> Iterator[tuple[str, tuple[Alternatives, ...]]]:
    """Every key of a schema with its conditions, those of its groups first."""
    of_groups: dict[str, tuple[Alternatives, ...]] = {}
    for key, item, _ in all_fields(schema):
        own = item.metadata.get(_WHERE, ())
        of_groups[key] = (*of_groups.get(key.rpartition(".")[0], ()), *own)
        yield key, of_groups[key]


def described(key: str, conditions: tuple[Alternatives, ...]) -> str:
    """Where a key has an effect, such as ```data.source=folder` or hub``; empty: everywhere."""
    return "; ".join(
        dict.fromkeys(
            " or ".join(dict.fromkeys(_phrase(key, each) for each in alternatives))
            for alternatives in conditions
        )
    )


def _phrase(key: str, condition: Condition) -> str:
    if condition.key == COMMAND:
        return "training"
    if condition.key == MULTIRUN:
        return "a sweep" if condition.holds(GRID) else "a search"
    if condition.key == TAKERS:
        return "a key that takes it"
    other = condition.named(key).replace(".*.", f".{ANY_NAME}.")
    meaning = condition.meaning or condition.remedy
    assert meaning is not None, f"the condition of {key} has no meaning"
    return meaning.format(f"`{other}`")


def _unmet(key: str, alternatives: Alternatives, values: Mapping[str, Any]) -> str | None:
    """Reason and remedy if none of the alternatives holds."""
    found: dict[str, Any] = {}
    remedies = []
    for condition in alternatives:
        about = condition.about(key, values)
        is_met = any(condition.holds(each) for each in about.values())
        if is_met or (condition.without and not about):
            return None
        found |= about
        if condition.remedy is not None:
            remedies += [condition.remedy.format(other) for other in list(about)[:1]]
    if COMMAND in found:
        return f"{found[COMMAND]} does not read it; leave it out"
    if MULTIRUN in found and found[MULTIRUN] == GRID:
        return "it is of searches, and this sweep is a grid; leave it out, or add sweep=search"
    if MULTIRUN in found:
        return "it is of sweeps; leave it out, or start one with -m"
    if TAKERS in found:
        return "the keys that would take it are set otherwise, or have none; leave it out"
    reason = ", ".join(f"{name}={each}" for name, each in found.items())
    reason = reason or f"this model has no {alternatives[0].key.rpartition('.')[0]} that trains"
    if values.get(MULTIRUN) and not key.startswith("sweep."):
        return f"in this cell: {reason}"  # in another one it may have an effect
    return f"{reason}; leave it out" + f", or set {' or '.join(remedies)}" * bool(remedies)
