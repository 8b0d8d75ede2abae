"""Comparison of two LoRAs: norms, cosine and difference of their updates, by layer."""

from collections.abc import Iterable
from dataclasses import dataclass

from sdlora.adapters.arithmetic import inner_product, refuse_dora, update_norm
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import LoraError

SAME = 1e-4
"""Relative difference below which two updates count as one; rounding to 16 bits gives more."""

PARALLEL = 0.9999
"""Cosine above which two updates have one direction."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two updates, of one layer or of several together.

    Attributes:
        one: Squared norm of the first; 0 if it is not in the file.
        other: Squared norm of the second.
        inner: Inner product of both.
    """

    one: float = 0.0
    other: float = 0.0
    inner: float = 0.0

    def __add__(self, more: "Compared") -> "Compared":
        return Compared(self.one + more.one, self.other + more.other, self.inner + more.inner)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between them; 0 where one is zero."""
        norms = (self.one * self.other) ** 0.5
        return self.inner / norms if norms else 0.0

    @property
    def ratio(self) -> float:
        """Norm of the second over that of the first."""
        return (self.other / self.one) ** 0.5 if self.one else float("inf")

    @property
    def difference(self) -> float:
        """Norm of their difference, relative to the larger of the two."""
        largest = max(self.one, self.other)
        squared = max(0.0, self.one + self.other - 2 * self.inner)
        return (squared / largest) ** 0.5 if largest else 0.0


def compared(one: LoraFile, other: LoraFile) -> dict[str, Compared]:
    """Compare two plain LoRAs.

    Returns:
        Each layer of either, with its part's name in front.

    Raises:
        LoraError: If one is a DoRA, or a layer has two sizes: they are of different models.
    """
    found = {}
    for lora in (one, other):
        refuse_dora(lora, "its update is a function of the base's weights")
    for part in dict.fromkeys([*one.parts, *other.parts]):
        first = one.layers(part) if part in one.states else {}
        second = other.layers(part) if part in other.states else {}
        for name in dict.fromkeys([*first, *second]):
            a, b = first.get(name), second.get(name)
            if a is not None and b is not None:
                sizes = [(t["B"].shape[0], t["A"].flatten(1).shape[1]) for t in (a, b)]
                if sizes[0] != sizes[1]:
                    raise LoraError(
                        f"{part}.{name}: {sizes[0]} and {sizes[1]}; the files are for different "
                        "base models"
                    )
            found[f"{part}.{name}"] = Compared(
                one=update_norm(a) ** 2 if a is not None else 0.0,
                other=update_norm(b) ** 2 if b is not None else 0.0,
                inner=inner_product(a, b) if a is not None and b is not None else 0.0,
            )
    return found


def total(layers: Iterable[Compared]) -> Compared:
    """All layers together."""
    return sum(layers, Compared())


def verdict(whole: Compared) -> str:
    """Whether two updates are one, in words."""
    if whole.difference < SAME:
        return "the same update"
    if whole.cosine > PARALLEL:
        return f"the same update at {whole.ratio:.4g} times the strength"
    if whole.cosine < -PARALLEL:
        return f"the opposite update at {whole.ratio:.4g} times the strength"
    return "different updates"
