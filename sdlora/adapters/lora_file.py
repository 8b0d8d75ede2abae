"""A LoRA without a model: tensors and spec of each part, independent of the file layout."""

import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from sdlora.adapters.family_clues import FoundFamily
from sdlora.adapters.file_keys import Layers, parse_key
from sdlora.adapters.layer_paths import CLIP_INSIDE
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora_places import Layout
from sdlora.adapters.spec import LoraError, LoraSpec

STATE_KEYS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


@dataclass(frozen=True)
class LoraFile:
    """A LoRA read from disk or taken from a model.

    Attributes:
        states: For each of its parts, raw peft keys -> tensors, in the dtype of the file; layer
            names of text encoders without the prefix ``text_model.``.
        specs: For the same parts rank, alpha and layers.
        metadata: The header's strings.
        layout: Layout of the file.
        updates: For each part, adapters of single layers that no plain LoRA is: by layer, named as
            in ``states``.
        family: Whose LoRA it is, as its names and shapes show.
        left_out: What was in the file and is not in here, one line each.
    """

    states: dict[str, dict[str, Tensor]]
    specs: dict[str, LoraSpec]
    metadata: dict[str, str]
    layout: Layout
    updates: Mapping[str, Mapping[str, LayerUpdate]] = field(default_factory=dict)
    family: FoundFamily = field(default_factory=FoundFamily)
    left_out: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """Parts of a model that it changes."""
        return list(dict.fromkeys([*self.states, *self.updates]))

    def layers(self, part: str) -> Layers:
        """Layers of a part by name: ``A``, ``B``, ``alpha`` and, for DoRA, ``magnitude``.

        ``alpha`` is effective: the update is ``alpha / r * B @ A``, rank-stabilised or not. It is a
        float64 scalar.
        """
        found: Layers = {}
        for key, value in self.states[part].items():
            layer, kind = parse_key(key)
            found.setdefault(layer, {})[kind] = value
        spec = self.specs[part]
        for layer, tensors in found.items():
            alpha = _of_layer(spec.alpha_pattern, layer, spec.alpha)
            factor = math.sqrt(tensors["A"].shape[0]) if spec.use_rslora else 1.0
            tensors["alpha"] = torch.tensor(alpha * factor, dtype=torch.float64)
        return found


def from_layers(
    path: Path | str,
    parts: Mapping[str, Layers],
    metadata: Mapping[str, str],
    layout: Layout,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoraFile:
    """Make a LoRA from layers.

    Args:
        path: For messages.
        parts: Part -> layers; the alpha of a layer without one is that of the config, else the
            rank. Parts without layers are left out.
        metadata: The header's strings.
        layout: Layout of the file.
        configs: Part -> the known fields of peft's config.

    Raises:
        LoraError: If only some layers of a part are DoRA, or a rank or alpha is impossible.
    """
    found = {part: layers for part, layers in parts.items() if layers}
    return LoraFile(
        states={part: _state(layers) for part, layers in found.items()},
        specs={
            part: _spec(path, layers, (configs or {}).get(part, {}))
            for part, layers in found.items()
        },
        metadata=dict(metadata),
        layout=layout,
    )


def renamed(spec: LoraSpec, rename: Callable[[str], str]) -> LoraSpec:
    """The same spec with renamed layers."""
    return replace(
        spec,
        targets=tuple(rename(target) for target in spec.targets),
        rank_pattern={rename(layer): value for layer, value in spec.rank_pattern.items()},
        alpha_pattern={rename(layer): value for layer, value in spec.alpha_pattern.items()},
    )


def _state(layers: Layers) -> dict[str, Tensor]:
    return {
        f"{layer}.{STATE_KEYS[kind]}": value
        for layer, found in layers.items()
        for kind, value in found.items()
        if kind in STATE_KEYS
    }


def _spec(path: Path | str, layers: Layers, config: Mapping[str, Any]) -> LoraSpec:
    ranks = {layer: found["A"].shape[0] for layer, found in layers.items()}
    with_magnitude = [layer for layer, found in layers.items() if "magnitude" in found]
    if with_magnitude and len(with_magnitude) != len(layers):
        raise LoraError(f"{path}: DoRA on some layers only, which peft cannot hold")
    given = config.get("alpha_pattern") or {}
    patterns = {name.removeprefix(CLIP_INSIDE): alpha for name, alpha in given.items()}
    alphas = {}
    for layer, found in layers.items():
        default = _of_layer(patterns, layer, config.get("lora_alpha"))
        stored = found["alpha"].item() if "alpha" in found else default
        alphas[layer] = float(ranks[layer] if stored is None else stored)
    for layer, alpha in alphas.items():
        if ranks[layer] < 1 or not (math.isfinite(alpha) and alpha > 0):
            raise LoraError(
                f"{path}: {layer}: rank {ranks[layer]}, alpha {alpha}; a rank is at least 1, an "
                "alpha a finite number > 0: the file is damaged; download it again, or give every "
                "such layer its rank as alpha: "
                f"sdlora lora fix {shlex.quote(str(path))} FIXED.safetensors"
            )
    r = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return LoraSpec(
        r=r,
        alpha=alpha,
        dropout=0.0,
        targets=tuple(layers),
        use_dora=bool(with_magnitude),
        use_rslora=bool(config.get("use_rslora", False)),
        rank_pattern={layer: value for layer, value in ranks.items() if value != r},
        alpha_pattern={layer: value for layer, value in alphas.items() if value != alpha},
    )


def _of_layer(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value of a layer by pattern, matched as in peft."""
    return patterns.get(get_pattern_key(list(patterns), layer), default)
