"""The facts of a run or an evaluation in the head of its page."""

from collections.abc import Mapping
from typing import Any

from sdlora.runs.partial_files import mapping
from sdlora.runs.report import LORA_ROW, WHOLE_ROW


def at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = mapping(value).get(part)
    return value


def run_head(
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    best: Any,
    last: int | None,
) -> list[tuple[str, str]]:
    """Facts of a training run as (name, value); unknown ones are left out."""
    counts = mapping(dataset.get("counts"))
    max_steps = at(config, "trainer.max_steps")
    roots = [at(config, "data.root")] + [
        mapping(root).get("path", root) for root in at(config, "data.roots") or []
    ]
    steps = None if last is None and max_steps is None else f"{last if last is not None else 0}"
    if steps is not None and max_steps is not None and max_steps != last:
        steps += f" of {max_steps}"
    is_frozen = at(config, "lora.text_encoder.method") == "frozen"
    rows = {
        "Base": at(config, "model.path"),
        "Drawn with": at(config, "model.draw_with"),
        "Pictures": counts.get("pictures"),
        "From": ", ".join(str(root) for root in roots if root),
        "Resolution": at(config, "data.resolution"),
        "Rank": at(config, "lora.r") if trained_name(config) == LORA_ROW else None,
        "Batch": at(config, "data.batch_size"),
        "Denoiser rate": at(config, "optim.transformer_lr") or at(config, "optim.unet_lr"),
        "Text encoder rate": None if is_frozen else at(config, "optim.text_encoder_lr"),
        "Steps": steps,
        "Chosen step": best,
    }
    return _known(rows)


def trained_name(config: Mapping[str, Any]) -> str:
    """Name of the trained model: a LoRA, unless all weights trained."""
    methods = [mapping(part).get("method") for part in mapping(at(config, "lora")).values()]
    return WHOLE_ROW if "full" in methods else LORA_ROW


def evaluation_head(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of an evaluation as (name, value); unknown ones are left out."""
    rows = {
        "Run": at(config, "run"),
        "LoRA": at(config, "lora"),
        "Pictures": at(config, "images"),
    }
    if rows["Run"]:
        rows["Checkpoint"] = at(config, "checkpoint")
    if not rows["Pictures"]:
        rows |= {
            "Base": at(config, "model.path"),
            "Drawn with": at(config, "model.draw_with"),
            "Strength": at(config, "lora_scale"),
            "Resolution": at(config, "resolution"),
            "Sampling steps": at(config, "sampling.num_steps"),
            "Guidance": at(config, "sampling.guidance_scale"),
        }
    return _known(rows)


def _known(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in rows.items()
        if value not in (None, "", [])
    ]
