"""Layers of an adapter file from its keys and shapes: kind, place, and what is of no adapter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdlora.adapters.adapter_kinds import AdapterKind, Shape, kind_of
from sdlora.adapters.family_clues import FoundFamily, Size
from sdlora.adapters.key_roles import described, role_of
from sdlora.adapters.lora_families import find_family


@dataclass(frozen=True, slots=True)
class FileLayer:
    """A layer of a file, under the file's own name.

    Attributes:
        kind: The kind of its adapter.
        keys: Role -> key in the file.
        shapes: Role -> shape.
    """

    kind: AdapterKind
    keys: Mapping[str, str]
    shapes: Mapping[str, Shape]

    @property
    def size(self) -> Size:
        """Outputs and inputs of the layer that it changes, as far as its tensors tell."""
        return self.kind.size(self.shapes)


@dataclass(frozen=True, slots=True)
class FileLayers:
    """The content of an adapter file.

    Attributes:
        layers: Layers by the file's own names.
        family: Whose layers they are.
        unknown: What is of no adapter, one line each: keys, and layers that are not whole.
        unknown_keys: The keys that these lines are of.
    """

    layers: Mapping[str, FileLayer]
    family: FoundFamily
    unknown: list[str] = field(default_factory=list)
    unknown_keys: frozenset[str] = frozenset()


def file_layers(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> FileLayers:
    """Sort a file by layers.

    Args:
        shapes: Keys -> shapes.
        metadata: The header's strings.
    """
    roles: dict[str, dict[str, str]] = {}
    alone, twice = [], []
    for key in shapes:
        role = role_of(key)
        if role is None:
            alone.append(key)
        elif role.name in roles.setdefault(role.layer, {}):
            twice.append(key)
        else:
            roles[role.layer][role.name] = key
    layers: dict[str, FileLayer] = {}
    unknown, unknown_keys = described(alone), {*alone, *twice}
    unknown += [f"{key}: a second one for its layer" for key in twice]
    for name, keys in roles.items():
        kind = kind_of(keys)
        if kind is None:
            unknown.append(_not_whole(name, keys))
            unknown_keys |= set(keys.values())
        else:
            layers[name] = FileLayer(kind, keys, {r: shapes[k] for r, k in keys.items()})
    sizes: dict[str, Size] = {name: layer.size for name, layer in layers.items()}
    return FileLayers(layers, find_family(sizes, metadata), unknown, frozenset(unknown_keys))


def _not_whole(name: str, keys: Mapping[str, str]) -> str:
    if len(keys) == 1:
        (role,) = keys
        only = role if role in ("A", "B") else next(iter(keys.values())).removeprefix(f"{name}.")
        return f"{name}: has only {only}"
    return f"{name}: has {', '.join(sorted(keys))}, which together are no adapter"
