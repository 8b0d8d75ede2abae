"""Content of LoRA files without a model: from tensors and their keys to a ``LoraFile``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sdlora.adapters.adapter_layers import FileLayers, file_layers
from sdlora.adapters.family_clues import FoundFamily
from sdlora.adapters.file_sorting import Sorted, sorted_tensors
from sdlora.adapters.layer_paths import place_of
from sdlora.adapters.lora_families import LORA_FAMILIES
from sdlora.adapters.lora_file import LoraFile, from_layers
from sdlora.adapters.lora_places import Layout
from sdlora.adapters.peft_config import alpha_in
from sdlora.adapters.spec import LoraError, listing
from sdlora.adapters.transformer_layers import in_diffusers_names
from sdlora.models.families import families, part_names

SKIP_UNKNOWN = "--skip-unknown (evaluate: lora_skip_unknown=true)"
"""What leaves unknown keys out."""


@dataclass(frozen=True, slots=True)
class Content:
    """Tensors and header of a file.

    Attributes:
        path: For messages.
        tensors: By key.
        metadata: The header's strings.
        layout: Its layout.
        layers_per_block: Resnets per block of the U-Net.
        part: Part of keys that name none (peft); ``None``: a U-Net or the first text encoder, by
            their names.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    layout: Layout
    layers_per_block: int = 2
    part: str | None = None

    def lora_file(
        self, configs: Mapping[str, Mapping[str, Any]], skip_unknown: bool = False
    ) -> LoraFile:
        """The LoRA.

        Args:
            configs: Part -> the known fields of peft's config.
            skip_unknown: Leave out what is of no adapter instead of refusing the file.

        Raises:
            LoraError: If it is of a family that is not loaded here, holds what is of no adapter, or
                an alpha or rank is impossible.
        """
        content = self.layers()
        named = in_diffusers_names(self.tensors, content.layers, content.family.name)
        if named is not None:
            renamed = replace(self, tensors=named, part=None)
            shapes = {key: tuple(tensor.shape) for key, tensor in named.items()}
            content = replace(file_layers(shapes, self.metadata), family=content.family)
            return renamed.from_sorted(
                content, renamed.sorted(content, configs), configs, skip_unknown
            )
        found = self.sorted(content, configs)
        return self.from_sorted(content, found, configs, skip_unknown)

    def layers(self) -> FileLayers:
        """Its layers.

        Raises:
            LoraError: If they are of a family that is not loaded here.
        """
        shapes = {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}
        content = file_layers(shapes, self.metadata)
        require_loaded(self.path, content.family)
        return content

    def sorted(self, content: FileLayers, configs: Mapping[str, Mapping[str, Any]]) -> Sorted:
        """Its tensors by part and layer."""

        def alpha_of(part: str, layer: str) -> Any:
            return alpha_in(configs.get(part, {}), layer)

        return sorted_tensors(self.path, self.tensors, content.layers, self.place, alpha_of)

    def from_sorted(
        self,
        content: FileLayers,
        found: Sorted,
        configs: Mapping[str, Mapping[str, Any]],
        skip_unknown: bool,
    ) -> LoraFile:
        """A ``LoraFile`` of its sorted tensors; errors as in :meth:`lora_file`."""
        unknown = [*content.unknown, *found.unplaced]
        is_empty = not (any(found.parts.values()) or found.updates)
        if is_empty or (unknown and not skip_unknown):
            raise LoraError(_unknown_text(self.path, unknown, is_empty))
        plain = {part: found.parts[part] for part in part_names() if part in found.parts}
        lora = from_layers(self.path, plain, self.metadata, self.layout, configs)
        return replace(lora, updates=found.updates, family=content.family, left_out=unknown)

    def place(self, name: str) -> tuple[str, str] | None:
        """Part and layer of a name in the file."""
        name = name.removeprefix("base_model.model.")
        if self.part is not None:
            where = place_of(f"{self.part}.{name}", self.layers_per_block)
            return where or (self.part, name)
        return place_of(name, self.layers_per_block) or _named_part(name)


def require_loaded(path: Path, family: FoundFamily) -> None:
    """Refuse a file of a family that has no loader here.

    Raises:
        LoraError: Naming the family.
    """
    known = families()
    if family.candidates and not any(each.name in known for each in family.candidates):
        loaded = ", ".join(each.kind for each in known.values() if each.tokenizers)
        raise LoraError(
            f"{path}: a LoRA of {family.title}, which is not loaded here; use it with a model of "
            f"that family in another program. Loaded are those of {loaded}; sdlora lora inspect "
            "shows what is in it"
        )


def refuse_other_family(path: Path, lora: LoraFile, base: str) -> None:
    """Refuse a LoRA that its layers show to be of another family than a base.

    Args:
        path: The file, for the message.
        lora: Its content.
        base: ``model.family`` of the base; one that the table does not have is not judged.

    Raises:
        LoraError: Naming both families.
    """
    titles = [each.title for each in LORA_FAMILIES if each.name == base]
    own = {each.name for each in lora.family.candidates}
    if titles and own and base not in own:
        raise LoraError(
            f"{path}: a LoRA of {lora.family.title}; the base is {' or '.join(titles)}: choose a "
            "base of the LoRA's family"
        )


def _named_part(name: str) -> tuple[str, str] | None:
    """Part and layer of a name that begins with the part of a family outside of this table."""
    part, dot, layer = name.partition(".")
    return (part, layer) if dot and part in part_names() else None


def _unknown_text(path: Path, unknown: list[str], is_empty: bool) -> str:
    text = (
        f"{path}: {len(unknown) or 'no'} keys that are no LoRA of a model that is loaded here"
        f"{listing(unknown)}"
    )
    if is_empty:
        return f"{text}\nIt holds no adapter that is known here."
    return f"{text}\nTo use the rest of the file without them, give {SKIP_UNKNOWN}."
