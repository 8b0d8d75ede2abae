"""LoRA by peft on a part of a model, in place: add, load strictly, scale, switch off, merge."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sdlora.adapters.learned_embedding import learned
from sdlora.randomness import generator

ADAPTER = "default"
INITS = ("default", "gaussian")
NUM_SHOWN = 8


class LoraError(ValueError):
    """An adapter that does not fit its model; the message lists names, shapes and remedy."""


@dataclass(frozen=True)
class LoraSpec:
    """What an adapter is, apart from its weights.

    Attributes:
        r: Rank; >= 1.
        alpha: The update is scaled by ``alpha / r`` (rsLoRA: ``alpha / sqrt(r)``); > 0.
        dropout: Probability that an adapter's input is dropped while training; [0, 1).
        targets: Layers that get an adapter: full names or their ends, cut at a dot.
        init: ``"default"`` (Kaiming uniform A, zero B) or ``"gaussian"`` (A ~ N(0, 1/r^2), zero B).
        use_dora: Weight-decomposed LoRA (arXiv:2402.09353).
        use_rslora: Rank-stabilised scale (arXiv:2312.03732).
        rank_pattern: Ranks of layers that differ from ``r``, by name as in ``targets``.
        alpha_pattern: Alphas of layers that differ from ``alpha``, by name as in ``targets``.

    Raises:
        ValueError: If a value is out of range.
    """

    r: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    init: str = "default"
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if isinstance(r, bool) or not isinstance(r, int) or r < 1:
                raise ValueError(f"{name}={r!r}: a rank is a whole number >= 1")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (math.isfinite(alpha) and alpha > 0):
                raise ValueError(f"{name}={alpha!r}: an alpha is a finite number > 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r}: must be in [0, 1)")
        if not self.targets:
            raise ValueError("targets=(): names no layer; list some, such as to_q, to_v")
        if self.init not in INITS:
            raise ValueError(f"init={self.init!r}: must be one of {', '.join(INITS)}")


def add_lora(module: nn.Module, spec: LoraSpec, seed: int) -> nn.Module:
    """Put an adapter named ``default`` on ``module``, in place; its other weights are frozen.

    Adapter weights are float32 whatever the base's dtype is. Matrix A of each layer is drawn from
    its own generator, keyed by ``seed`` and the layer's name, so it depends neither on the device
    nor on which other layers have an adapter; global random state is left as it was.

    Args:
        module: A UNet, text encoder or any other module with Linear and Conv2d layers.
        spec: Rank, alpha, targets.
        seed: Of the initial weights.

    Returns:
        ``module``.

    Raises:
        LoraError: If it has an adapter already, if a target matches nothing or a layer that cannot
            be adapted.
    """
    if _layers(module):
        raise LoraError(f"{type(module).__name__} has an adapter already; add one to a fresh model")
    _check_targets(module, spec)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides it, so a float is right
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets),
        init_lora_weights="gaussian" if spec.init == "gaussian" else True,
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern=dict(spec.alpha_pattern),
    )
    with torch.random.fork_rng(devices=[]):
        door: Any = getattr(module, "add_adapter", None)  # diffusers' and transformers' to peft
        if door is not None:
            door(config, adapter_name=ADAPTER)
        else:
            inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    for name, layer in _layers(module).items():
        _initialise(layer, name, spec, seed)
    for parameter in lora_parameters(module).values():
        parameter.data = parameter.data.float()
    return module


def lora_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter parameters by raw peft key, such as ``mid_block.to_q.lora_A.weight``; maybe none."""
    return {
        _raw_key(name): parameter
        for name, parameter in module.named_parameters()
        if ".lora_" in f".{name}" and f".{ADAPTER}" in name
    }


def lora_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapter's weights by raw peft key, on the CPU, in the order of files.

    Convolutions of a model in ``channels_last`` lie in another order, which safetensors refuses.
    """
    order = torch.contiguous_format
    found = lora_parameters(module).items()
    return {name: weight.detach().cpu().clone(memory_format=order) for name, weight in found}


def load_lora_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put weights into the adapter of ``module``; every key and shape must fit.

    Args:
        module: With an adapter.
        state: By raw peft key; any float dtype, any device.

    Raises:
        LoraError: Listing keys that are missing or unexpected and shapes that differ; nothing is
            loaded then.
    """
    parameters = lora_parameters(module)
    problems = [f"missing: {name}" for name in parameters if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in parameters]
    problems += [
        f"{name}: shape {list(state[name].shape)} in the file, {list(p.shape)} in the model"
        for name, p in parameters.items()
        if name in state and state[name].shape != p.shape
    ]
    if problems:
        raise LoraError(
            f"the LoRA does not fit {type(module).__name__}: {len(problems)} keys differ"
            f"{listing(problems)}\nIt was made for another base model, rank or set of targets."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def set_scale(module: nn.Module, scale: float) -> None:
    """Set the adapter's strength: 1 as trained, 0 none; negative values turn it round.

    Raises:
        LoraError: If the adapter is merged, or ``scale`` is not finite.
    """
    if not math.isfinite(scale):
        raise LoraError(f"scale={scale}: must be a finite number")
    _require_unmerged(module, "set its scale")
    for layer in _layers(module).values():
        layer.set_scale(ADAPTER, scale)


@contextmanager
def disabled(*modules: nn.Module) -> Iterator[None]:
    """The base model: the modules without their adapters, inside the block; may be nested.

    A new word stands for what it began with.

    Raises:
        LoraError: If an adapter is merged, as the base's weights are not there then.
    """
    for module in modules:
        _require_unmerged(module, "switch it off")
    layers = [layer for module in modules for layer in _layers(module).values()]
    before = [layer.disable_adapters for layer in layers]
    parameters = [p for module in modules for p in lora_parameters(module).values()]
    trained = [(p, p.requires_grad) for p in parameters]
    words = [(word, word.strength) for word in learned(*modules)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        for word, _ in words:
            word.strength = 0.0
        yield
    finally:
        for layer, was_disabled in zip(layers, before, strict=True):
            layer.enable_adapters(not was_disabled)
        for word, strength in words:
            word.strength = strength
        for parameter, requires_grad in trained:  # peft's switch sets it as it likes
            parameter.requires_grad_(requires_grad)


def merge(module: nn.Module) -> None:
    """Add the adapter into the base weights, in their dtype, for good.

    Raises:
        ValueError: If a merged weight would be NaN or infinite.
    """
    for layer in _layers(module).values():
        layer.merge(safe_merge=True)


@contextmanager
def merged(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` with its adapter merged, inside the block; then the base weights are put back.

    They are put back from a copy: subtracting the update again would leave rounding errors.
    """
    _require_unmerged(module, "merge it again")
    layers = list(_layers(module).values())
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().clone() for weight in weights]
    try:
        merge(module)
        yield module
    finally:
        for layer, weight, copy in zip(layers, weights, kept, strict=True):
            weight.data.copy_(copy)
            layer.merged_adapters.clear()


def adapted_layers(module: nn.Module) -> dict[str, tuple[int, float]]:
    """Rank and effective alpha (scale times rank, as trained) of each adapted layer, by name."""
    found = {}
    for name, layer in _layers(module).items():
        r, alpha = layer.r[ADAPTER], float(layer.lora_alpha[ADAPTER])
        found[name] = (r, alpha * math.sqrt(r) if layer.use_rslora.get(ADAPTER) else alpha)
    return found


def lora_config(module: nn.Module) -> LoraConfig:
    """The peft config of the adapter.

    Raises:
        LoraError: If there is none.
    """
    configs: dict[str, Any] = getattr(module, "peft_config", {})
    if ADAPTER not in configs:
        raise LoraError(f"{type(module).__name__} has no adapter; add one with add_lora")
    return configs[ADAPTER]


def listing(lines: list[str]) -> str:
    """The first few of ``lines``, each on a line of its own, and how many more there are."""
    more = [f"... and {len(lines) - NUM_SHOWN} more"] if len(lines) > NUM_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:NUM_SHOWN], *more])


def _layers(module: nn.Module) -> dict[str, Any]:
    """Layers with our adapter; as ``Any``, for peft's layers are typed as their mixins."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer) and ADAPTER in layer.r
    }


def _raw_key(name: str) -> str:
    key = name.replace(f".{ADAPTER}", "")
    return key.removesuffix(".weight") if "lora_magnitude_vector" in key else key


def _check_targets(module: nn.Module, spec: LoraSpec) -> None:
    modules = dict(module.named_modules())
    kinds = (nn.Linear, nn.Conv2d)
    possible = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, kinds)})
    for target in spec.targets:
        matches = [n for n in modules if n == target or n.endswith(f".{target}")]
        if not matches:
            near = get_close_matches(target, possible, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise LoraError(
                f"targets={target}: no such layer in {type(module).__name__}{hint} "
                f"Layers there end with, for example, {', '.join(possible[:12])}"
            )
        for name in matches:
            if not isinstance(modules[name], kinds):
                raise LoraError(
                    f"targets={target}: {name} is a {type(modules[name]).__name__}; only Linear "
                    "and Conv2d layers take a LoRA, so give a longer name, such as to_out.0"
                )


def _initialise(layer: Any, name: str, spec: LoraSpec, seed: int) -> None:
    weight = layer.lora_A[ADAPTER].weight
    draws = generator(seed, f"lora/{name}")
    fresh = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
    if spec.init == "gaussian":
        fresh.normal_(0.0, 1.0 / layer.r[ADAPTER], generator=draws)
    else:
        nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=draws)
    if not weight.is_meta:
        weight.data = fresh.to(weight.device)


def _require_unmerged(module: nn.Module, what: str) -> None:
    if any(layer.merged for layer in _layers(module).values()):
        raise LoraError(f"the adapter is merged into the weights; {what} before merging")
