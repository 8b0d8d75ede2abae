"""An adapter of any kind on one layer: its title, its scale, the change of weight and bias."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlora.adapters.adapter_kinds import AdapterKind, dora_axis, title_of
from sdlora.adapters.update_formulas import UPDATES, Numbers, in_shape, with_length


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a layer.

    Attributes:
        weight: To be added to its weight, in float32; ``None``: the weight stays.
        bias: The same of its bias.
    """

    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerUpdate:
    """An adapter of one layer that is not a plain LoRA.

    Attributes:
        kind: Its kind.
        tensors: Role (:mod:`sdlora.adapters.key_roles`) -> tensor; single numbers are below.
        alpha: As its kind understands it: divided by the rank, or OFT's bound; ``None``: not said.
        scalar: LyCORIS' trained factor.
        on_input: Whether IA3's factors are those of the inputs, or ``oft_R`` is peft's.
    """

    kind: AdapterKind
    tensors: Mapping[str, Tensor]
    alpha: float | None = None
    scalar: float = 1.0
    on_input: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Role -> shape."""
        return {role: tuple(tensor.shape) for role, tensor in self.tensors.items()}

    @property
    def title(self) -> str:
        """The name of its kind and variant, for people."""
        return title_of(self.kind, self.shapes)

    @property
    def is_dora(self) -> bool:
        """Whether it sets the length of the changed weight's rows or columns."""
        return dora_axis(self.shapes) is not None

    @property
    def needs_base(self) -> bool:
        """Whether the change is a function of the layer's own weight."""
        return self.kind.of_base or self.is_dora

    @property
    def scale(self) -> float:
        """Factor of the product of its matrices: alpha over rank, and LyCORIS' trained factor."""
        rank = self.kind.rank(self.shapes)
        return self.scalar * (1.0 if self.alpha is None or rank is None else self.alpha / rank)

    @property
    def _numbers(self) -> Numbers:
        return Numbers(self.scale, self.alpha, self.on_input)

    def to(self, device: torch.device | str) -> "LayerUpdate":
        """The same on another device."""
        return replace(self, tensors={r: t.to(device) for r, t in self.tensors.items()})

    def norm(self) -> float | None:
        """Frobenius norm of the update of the weight, a DoRA's magnitudes left out.

        Returns:
            The norm; ``None`` if it is a function of the layer's own weight.
        """
        if self.kind.of_base or self.kind.name == "bias":
            return None
        return float(self.update().norm())

    def update(self) -> Tensor:
        """The update of a weight that it is no function of, magnitudes left out, in float32.

        The kernel of a convolution may be flat.
        """
        outputs, inputs = self.kind.size(self.shapes)
        shape = torch.zeros(outputs or 1, inputs or 1)
        tensors = {role: tensor.float() for role, tensor in self.tensors.items()}
        update = UPDATES[self.kind.name](tensors, shape, self._numbers)
        assert update is not None
        return update

    def change(self, weight: Tensor) -> Change:
        """The change at strength 1.

        Args:
            weight: The layer's own weight, on the same device.

        Raises:
            RuntimeError: If the shapes do not fit.
        """
        tensors = {role: tensor.float() for role, tensor in self.tensors.items()}
        before = weight.detach().float()
        update = UPDATES[self.kind.name](tensors, before, self._numbers)
        if update is not None:
            update = in_shape(update, weight.shape)
            if self.is_dora:
                update = with_length(before + update, tensors, dora_axis(self.shapes)) - before
        bias = tensors.get("diff_b", tensors.get("b_norm"))
        if "B_bias" in tensors:
            bias = self.scale * tensors["B_bias"]
        return Change(update, bias)
