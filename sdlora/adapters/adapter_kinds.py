"""Kinds of adapters in files: by which tensors each is known, its size, its rank."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Role of a tensor of one layer -> its shape."""

ANYWHERE = frozenset({"diff_b", "B_bias"})
"""Roles of a changed bias, which any kind may have beside it."""

OUT, IN = "out", "in"
"""Axis of a DoRA's magnitudes: one for each output channel, or one for each input channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterKind:
    """A kind of adapter.

    Attributes:
        name: Its name.
        title: Its name for people.
        needs: Roles that a layer of it has; of several sets one must be there.
        may: Further roles.
        size: Shapes -> outputs and inputs (without the kernel) of the layer that it changes;
            ``None``: the tensors do not tell.
        rank: Shapes -> rank as its trainer calls it; ``None``: it has none.
        of_base: Whether the update is a function of the layer's own weight.
    """

    name: str
    title: str
    needs: tuple[frozenset[str], ...]
    may: frozenset[str] = frozenset()
    size: Callable[[Shapes], tuple[int | None, int | None]] = lambda shapes: (None, None)
    rank: Callable[[Shapes], int | None] = lambda shapes: None
    of_base: bool = False

    def holds(self, roles: Collection[str]) -> bool:
        """Whether these roles are a whole layer of this kind and nothing else."""
        found = set(roles)
        allowed = self.may | ANYWHERE
        return any(each <= found and found - each <= allowed for each in self.needs)


def _lora_size(shapes: Shapes) -> tuple[int, int]:
    return shapes["B"][0], shapes["A"][1]


def _loha_size(shapes: Shapes) -> tuple[int, int]:
    first, second = shapes["hada_w1_a"], shapes["hada_w1_b"]
    return (first[1] if "hada_t1" in shapes else first[0]), second[1]


def _lokr_size(shapes: Shapes) -> tuple[int, int | None]:
    one, other = _lokr_factor(shapes, "lokr_w1"), _lokr_factor(shapes, "lokr_w2")
    inputs = None if one[1] is None or other[1] is None else one[1] * other[1]
    return one[0] * other[0], inputs


def _lokr_factor(shapes: Shapes, name: str) -> tuple[int, int | None]:
    if name in shapes:
        return shapes[name][0], shapes[name][1]
    first, second = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if "lokr_t2" in shapes and name == "lokr_w2":
        return first[1], second[1]
    return first[0], second[1]  # times the kernel, for a convolution


def _lokr_rank(shapes: Shapes) -> int | None:
    found = [shapes[name][0] for name in ("lokr_w1_b", "lokr_w2_b") if name in shapes]
    return found[-1] if found else None


def is_old_glora(shapes: Shapes) -> bool:
    """Whether a GLoRA has its matrices the other way round, as LyCORIS wrote it before 2.0."""
    new = {shapes["a1"][1], shapes["a2"][0], shapes["b1"][1], shapes["b2"][0]}
    old = {shapes["a1"][0], shapes["a2"][1], shapes["b1"][0], shapes["b2"][1]}
    return len(new) > 1 and len(old) == 1


def _glora_size(shapes: Shapes) -> tuple[int, int]:
    if is_old_glora(shapes):
        return shapes["b2"][0], shapes["a1"][1]
    return shapes["b1"][0], shapes["a2"][1]


def _glora_rank(shapes: Shapes) -> int:
    return shapes["a2"][1 if is_old_glora(shapes) else 0]


def _oft_size(shapes: Shapes) -> tuple[int, None]:
    blocks = shapes["oft_blocks"]
    return blocks[-3] * blocks[-1], None


def _oft_r_size(shapes: Shapes) -> tuple[None, int]:
    number, elements = shapes["oft_R"]
    return None, number * oft_side(elements)


def oft_side(elements: int) -> int:
    """Side of a block of which peft's OFT stores the numbers above the diagonal."""
    return (1 + math.isqrt(1 + 8 * elements)) // 2


DORA = frozenset({"magnitude", "dora_scale"})
_SCALED = frozenset({"alpha", "scalar"}) | DORA

KINDS = (
    AdapterKind(
        name="lora",
        title="LoRA",
        needs=(frozenset({"A", "B"}),),
        may=_SCALED | {"mid"},
        size=_lora_size,
        rank=lambda shapes: shapes["A"][0],
    ),
    AdapterKind(
        name="loha",
        title="LoHa",
        needs=(frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
        may=_SCALED | {"hada_t1", "hada_t2"},
        size=_loha_size,
        rank=lambda shapes: shapes["hada_w1_b"][0],
    ),
    AdapterKind(
        name="lokr",
        title="LoKr",
        needs=(
            frozenset({"lokr_w1", "lokr_w2"}),
            frozenset({"lokr_w1", "lokr_w2_a", "lokr_w2_b"}),
            frozenset({"lokr_w1_a", "lokr_w1_b", "lokr_w2"}),
            frozenset({"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}),
        ),
        may=_SCALED | {"lokr_t2"},
        size=_lokr_size,
        rank=_lokr_rank,
    ),
    AdapterKind(
        name="ia3",
        title="IA3",
        needs=(frozenset({"weight", "on_input"}), frozenset({"ia3_l"})),
        of_base=True,
    ),
    AdapterKind(
        name="glora",
        title="GLoRA",
        needs=(frozenset({"a1", "a2", "b1", "b2"}),),
        may=frozenset({"bm", "alpha", "scalar"}),
        size=_glora_size,
        rank=_glora_rank,
        of_base=True,
    ),
    AdapterKind(
        name="oft",
        title="OFT",
        needs=(frozenset({"oft_blocks"}),),
        may=frozenset({"alpha", "rescale"}),
        size=_oft_size,
        of_base=True,
    ),
    AdapterKind(
        name="oft_r",
        title="OFT on the inputs",
        needs=(frozenset({"oft_R"}),),
        may=frozenset({"alpha", "oft_scaled"}),
        size=_oft_r_size,
        of_base=True,
    ),
    AdapterKind(
        name="full",
        title="full difference",
        needs=(frozenset({"diff"}),),
        may=frozenset({"alpha"}),
        size=lambda shapes: (shapes["diff"][0], shapes["diff"][1] if shapes["diff"][1:] else None),
    ),
    AdapterKind(
        name="norm",
        title="norm",
        needs=(frozenset({"w_norm"}), frozenset({"w_norm", "b_norm"})),
    ),
    AdapterKind(name="bias", title="bias", needs=(frozenset({"diff_b"}),)),
)
"""Every kind that is read.

Source:
    KohakuBlueleaf/LyCORIS ``modules``; huggingface/peft ``tuners`` (``ia3_l``, ``oft_R``).
"""


def kind_of(roles: Collection[str]) -> AdapterKind | None:
    """The kind of a layer by its roles; ``None``: of no kind, or not whole."""
    return next((kind for kind in KINDS if kind.holds(roles)), None)


def title_of(kind: AdapterKind, shapes: Shapes) -> str:
    """The name of a layer's adapter, with its variant, for people."""
    name = kind.title
    if kind.name == "oft" and len(shapes["oft_blocks"]) == 4:
        name = "BOFT"
    if kind.name == "lora" and len(shapes["A"]) == 4 and max(shapes["A"][2:]) > 1:
        name = "LoCon"
    if {"mid", "hada_t1", "lokr_t2", "bm"} & shapes.keys():
        name = f"{'LoCon' if kind.name == 'lora' else name} with a core (CP)"
    axis = dora_axis(shapes)
    return name if axis is None else f"{name}, DoRA by {axis}put"


def dora_axis(shapes: Shapes) -> str | None:
    """Axis of a DoRA's magnitudes; ``None``: it has none.

    peft's ``lora_magnitude_vector`` is one number an output in any shape; ``dora_scale`` of the
    others has the shape of the weight with 1 elsewhere, so its first size tells.
    """
    if "magnitude" in shapes:
        return OUT
    if "dora_scale" not in shapes:
        return None
    shape = shapes["dora_scale"]
    return IN if len(shape) > 1 and shape[0] == 1 and math.prod(shape) > 1 else OUT
