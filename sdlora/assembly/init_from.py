"""The LoRA file of ``lora.init_from``: loading into adapters, and checks against the config."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sdlora.adapters.folding import with_alphas_of
from sdlora.adapters.formats import fit_lora, read_lora
from sdlora.adapters.layer_update import LayerUpdate
from sdlora.adapters.lora import load_lora_state_dict
from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.spec import TITLES, LoraError, LoraSpec, listing
from sdlora.adapters.trained_updates import is_trained_here, spec_of, state_shapes
from sdlora.config.rules import ConfigError
from sdlora.models.family import Family


def start_from_file(path: str | None, family: Family) -> None:
    """Load the weights of ``lora.init_from`` into the adapters, if it is set, in place.

    The update is the file's, whatever alphas the adapters have.

    Raises:
        LoraError: If they do not fit; :func:`check_adapters` gives a remedy.
    """
    start = start_file(path, family.parts, family.denoiser_name)
    if start is not None:
        for part, state in with_alphas_of(start, family.parts).states.items():
            load_lora_state_dict(family.parts[part], state)


@dataclass(frozen=True, slots=True)
class ConfiguredAdapter:
    """The configured adapter of a part, and its layers.

    Attributes:
        part: Its name.
        spec: Spec of the adapter.
        modules: Names of all modules of the bare part.
        layers: Rank and effective alpha of the adapted layers.
        shapes: Shapes of its parameters by raw peft key.
    """

    part: str
    spec: LoraSpec
    modules: Sequence[str]
    layers: Mapping[str, tuple[int, float]]
    shapes: Mapping[str, tuple[int, ...]]


def start_file(
    path: str | None, parts: Mapping[str, nn.Module], denoiser: str, base: str = "BASE"
) -> LoraFile | None:
    """The file of ``lora.init_from`` with names and shapes of these parts; ``None``: not set.

    Args:
        path: The file.
        parts: Parts of the model, without weights.
        denoiser: Name of that part.
        base: Path of the model, for the command of a message.

    Raises:
        ConfigError: If it cannot be read, or belongs to another model.
    """
    if path is None:
        return None
    shape: Any = parts[denoiser].config
    try:
        lora = read_lora(path, int(shape.get("layers_per_block", 2)))
        others = [each for each in lora.updates.values() if not is_trained_here(each)]
        if others or (lora.updates and lora.states):
            found = [*others, *lora.updates.values()][: len(others) or None]
            kinds = {each.title for updates in found for each in updates.values()}
            kinds |= {"LoRA"} if lora.states and not others else set()
            command = ["sdlora", "lora", "convert", path, "plain.safetensors"]
            command += ["--layout", "diffusers"]
            if any(each.needs_base for updates in found for each in updates.values()):
                command += ["--base", base]
            raise LoraError(
                f"holds {', '.join(sorted(kinds))}, which no lora.type trains; make a plain LoRA "
                f"of it: {shlex.join(command)}"
            )
        return fit_lora(parts, lora)
    except LoraError as error:
        text = str(error)
        begun = text if text.startswith(path) else f"{path}: {text}"
        raise ConfigError(f"lora.init_from={begun}") from error


def require_same(
    path: str | None, configured: Sequence[ConfiguredAdapter], start: LoraFile
) -> None:
    """Refuse a file whose adapter differs from the config, with the overrides that match it."""
    lines, overrides = [], []
    specs = {**start.specs, **{part: spec_of(each) for part, each in start.updates.items()}}
    for part in sorted(specs.keys() - {each.part for each in configured}):
        lines.append(f"{part}: in the file, but lora.{part}.method is not lora")
        overrides.append(f"lora.{part}.method=lora")
    for each in configured:
        if each.part not in specs:
            lines.append(f"{each.part}: not in the file")
            overrides.append(f"lora.{each.part}.method=frozen")
            continue
        found, remedies = _differences(each, specs[each.part], start.updates.get(each.part, {}))
        lines += [f"{each.part}: {line}" for line in found]
        overrides += remedies
    if lines:
        raise ConfigError(
            f"lora.init_from={path}: its adapter differs from the configured "
            f"one:{listing(lines)}\nTo match the file, set: "
            f"{shlex.join(dict.fromkeys(overrides))}"
        )


def _differences(
    configured: ConfiguredAdapter, spec: LoraSpec, updates: Mapping[str, LayerUpdate]
) -> tuple[list[str], list[str]]:
    """Differences of a part, one line each, and the overrides that match the file."""
    lines, overrides, key = [], [], f"lora.{configured.part}"
    lacking = sorted(configured.layers.keys() - set(spec.targets))
    more = sorted(set(spec.targets) - configured.layers.keys())
    if lacking:
        lines.append(f"the file lacks {len(lacking)} layers, such as {lacking[0]}")
    if more:
        lines.append(f"the file has {len(more)} layers more, such as {more[0]}")
    if lacking or more:
        targets = _targets(configured.modules, dict.fromkeys(spec.targets))
        overrides.append(f"{key}.targets=[{','.join(targets)}]")
    if configured.spec.type != spec.type:
        lines.append(f"the file's is of the type {TITLES[spec.type]}")
        overrides += [f"lora.type={spec.type}", *_size_overrides(key, spec)]
        return lines, overrides
    other = _other_shapes(configured, updates) if updates else _other_ranks(configured, spec)
    lines += other
    if other or more:
        overrides += _size_overrides(key, spec)
    if configured.spec.use_dora != spec.use_dora:
        lines.append("the file's is " + ("a DoRA" if spec.use_dora else "no DoRA"))
        overrides.append(f"lora.use_dora={str(spec.use_dora).lower()}")
    return lines, overrides


def _other_ranks(configured: ConfiguredAdapter, spec: LoraSpec) -> list[str]:
    """A line on a layer of another rank, if there is one."""
    for name, (own, _) in configured.layers.items():
        rank = spec.rank_pattern.get(name, spec.r)
        if name in spec.targets and own != rank:
            return [f"{name}: rank {own} configured, rank {rank} in the file"]
    return []


def _other_shapes(configured: ConfiguredAdapter, updates: Mapping[str, LayerUpdate]) -> list[str]:
    """A line on a layer of other matrices, if there is one; of a type without plain ranks."""
    layers = {name: each for name, each in updates.items() if name in configured.layers}
    for key, shape in state_shapes(layers).items():
        own = configured.shapes.get(key)
        if own != shape:
            has = "nothing" if own is None else list(own)
            return [f"{key}: {has} configured, {list(shape)} in the file"]
    return []


def _size_overrides(key: str, spec: LoraSpec) -> list[str]:
    """Overrides for the sizes of the file's matrices."""
    if spec.type == "oft":
        return [f"lora.oft_block_size={spec.oft_block_size}"]
    factor = [f"lora.decompose_factor={spec.decompose_factor}"] * (spec.type == "lokr")
    return [*_rank_overrides(key, spec), *factor]


def _rank_overrides(key: str, spec: LoraSpec) -> list[str]:
    """Overrides for the ranks of a file, by layer where they differ."""
    inside = ",".join(f"{layer}:{r}" for layer, r in spec.rank_pattern.items())
    return [f"{key}.r={spec.r}", *([f"{key}.rank_pattern={{{inside}}}"] if inside else [])]


def _targets(modules: Sequence[str], layers: Mapping[str, object]) -> list[str]:
    """The shortest ends of names that match these layers and no other module."""
    found: dict[str, None] = {}
    for layer in layers:
        words = layer.split(".")
        ends = [".".join(words[index:]) for index in range(len(words) - 1, -1, -1)]
        named = [end for end in ends if not end[0].isdigit()]  # to_out.0, and never 0
        found[next(end for end in named if _means_only(end, modules, layers))] = None
    return list(found)


def _means_only(end: str, modules: Sequence[str], layers: Mapping[str, object]) -> bool:
    return all(n in layers for n in modules if n == end or n.endswith(f".{end}"))
