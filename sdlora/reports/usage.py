"""How what a run hands over is used: the file, where each program looks for it, how strong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.adapters.formats import read_metadata
from sdlora.adapters.spec import LoraError
from sdlora.export.plain_twin import file_of_others
from sdlora.models.families import FAMILIES
from sdlora.runs.partial_files import mapping
from sdlora.runs.run_folder import LORA, PIPELINE


@dataclass(frozen=True, slots=True)
class Use:
    """One program and what to do in it.

    Attributes:
        program: Its name.
        steps: What to do, in words.
        code: What to type or paste; empty: nothing.
    """

    program: str
    steps: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The file to use, as a path below the run's folder and as a whole one, and its uses."""

    file: str
    whole: str
    uses: tuple[Use, ...]


def usage_of(run: Path, config: Mapping[str, Any], strength: float) -> Usage | None:
    """What to do with the result of a run; ``None`` where it has none yet.

    Args:
        run: The run folder.
        config: The run's config, which may come from elsewhere.
        strength: The strength to use.
    """
    if (run / PIPELINE).is_dir():
        return _usage_of_model(run)
    name = str(mapping(config.get("export")).get("name"))
    if Path(name).name != name:
        return None
    file = file_of_others(run / LORA, name, _adapter_type(config))
    if file.is_file():
        return _usage_of_lora(run, file, strength, _draws_in_a1111(config))
    words = sorted((run / LORA / "embeddings").glob("*.safetensors"))
    return _usage_of_word(run, words[0]) if words else None


def _adapter_type(config: Mapping[str, Any]) -> str:
    return str(mapping(config.get("lora")).get("type") or "lora")


def _draws_in_a1111(config: Mapping[str, Any]) -> bool:
    """Whether A1111 draws with a base of the run's family, as far as that is known here."""
    found = FAMILIES.get(str(mapping(config.get("model")).get("family")))
    return found is None or "A1111" in found.programs


def _usage_of_lora(run: Path, file: Path, strength: float, in_a1111: bool) -> Usage:
    trigger = _trigger(file)
    word = f", and write “{trigger}” in the prompt" if trigger else ""
    at = f"strength {strength:g}"
    folder = json.dumps((run / LORA).absolute().as_posix(), ensure_ascii=False)
    lines = [f'pipe.load_lora_weights({folder}, adapter_name="lora")']
    lines += [f'pipe.set_adapters("lora", {strength:g})'] * (strength != 1)
    comfy = Use(
        "ComfyUI",
        f"Copy the file into ComfyUI/models/loras, load it with the node Load LoRA at {at}{word}.",
    )
    a1111 = Use(
        "A1111, Forge",
        f"Copy the file into models/Lora, and put this into the prompt{word}:",
        f"<lora:{file.stem}:{strength:g}>",
    )
    python = Use("diffusers", f"In Python, at {at}{word}:", "\n".join(lines))
    uses = (comfy, a1111, python) if in_a1111 else (comfy, python)
    return Usage(file.relative_to(run).as_posix(), file.absolute().as_posix(), uses)


def _usage_of_word(run: Path, file: Path) -> Usage:
    shown = json.dumps(file.absolute().as_posix(), ensure_ascii=False)
    token = json.dumps(file.stem, ensure_ascii=False)
    call = f"pipe.load_textual_inversion({shown}, token={token})"
    uses = (
        Use("ComfyUI", "Copy the file into ComfyUI/models/embeddings."),
        Use("A1111, Forge", f"Copy the file into embeddings, and write {file.stem} in the prompt."),
        Use("diffusers", "In Python:", call),
    )
    return Usage(file.relative_to(run).as_posix(), file.absolute().as_posix(), uses)


def _usage_of_model(run: Path) -> Usage:
    folder = (run / PIPELINE).absolute().as_posix()
    call = f"DiffusionPipeline.from_pretrained({json.dumps(folder, ensure_ascii=False)})"
    return Usage(f"{PIPELINE}/", folder, (Use("diffusers", "In Python:", call),))


def _trigger(file: Path) -> str:
    """The words that call the subject, from the file's header."""
    try:
        return read_metadata(file).get("modelspec.trigger_phrase", "")
    except (OSError, ValueError, LoraError):
        return ""
