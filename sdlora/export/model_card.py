"""The page that the Hugging Face Hub shows of a LoRA: ``README.md`` beside its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData
from PIL import Image

from sdlora.adapters.formats import DIFFUSERS_FILE
from sdlora.evaluation.comparison import measured_names, score_lines
from sdlora.evaluation.scores import Scores
from sdlora.runtime.files import atomic_path, write_text

CARD = "README.md"
PICTURES = "pictures"
MOST_PICTURES = 4


def write_model_card(
    folder: Path,
    *,
    name: str,
    family: str,
    base_model: str | None,
    trigger: str | None,
    licence: str | None,
    samples: Sequence[tuple[str, Image.Image]],
    facts: Mapping[str, str],
    scores: Mapping[str, Scores],
) -> list[Path]:
    """Write the card and its pictures. Nothing is asked of the network.

    Written here and not by diffusers' ``load_or_create_model_card``, which looks for an older card
    on the Hub first.

    Args:
        folder: Of the exported LoRA.
        name: Its title, and the kohya file's name.
        family: ``stable-diffusion``, ``stable-diffusion-xl`` or ``kolors``, as the Hub's tags have
            it.
        base_model: The base's id on the Hub, if it has one.
        trigger: The words that call what was trained, if there are some.
        licence: As the Hub names them; ``None`` is ``unknown``, a field to be filled in.
        samples: Prompts and the pictures drawn with them; the first four are shown.
        facts: What else to tell, by label.
        scores: Name -> scores, the base first; may be empty.

    Returns:
        The files, the card first.

    Source:
        The Hub's model card metadata (``base_model``, ``instance_prompt``, ``widget``) and the tags
        of diffusers' training scripts.
    """
    shown = samples[:MOST_PICTURES]
    pictures = _write_pictures(folder, [image for _, image in shown])
    data = ModelCardData(
        base_model=base_model,
        license=licence or "unknown",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[
            *("text-to-image", "diffusers", "diffusers-training", "lora"),
            *(family, f"{family}-diffusers", "template:sd-lora"),
        ],
        instance_prompt=trigger,
        widget=[
            {"text": prompt or " ", "output": {"url": path.relative_to(folder).as_posix()}}
            for (prompt, _), path in zip(shown, pictures, strict=True)
        ]
        or None,
    )
    text = _text(name, base_model, trigger, facts) + _score_table(scores)
    write_text(folder / CARD, f"---\n{data.to_yaml()}\n---\n\n{text}")
    return [folder / CARD, *pictures]


def _write_pictures(folder: Path, images: Sequence[Image.Image]) -> list[Path]:
    paths = [folder / PICTURES / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        with atomic_path(path) as temporary:
            image.save(temporary)
    return paths


def _text(name: str, base_model: str | None, trigger: str | None, facts: Mapping[str, str]) -> str:
    """The card below its metadata."""
    call = (
        "" if trigger is None else f"\nPut `{trigger}` into the prompt to call what it learned.\n"
    )
    table = "\n".join(f"| {label} | {value} |" for label, value in facts.items())
    return f"""# {name}

A LoRA, trained with sdlora.
{call}
<Gallery />

## Use

In ComfyUI or A1111: `{name}.safetensors`. With diffusers:

```python
from diffusers import AutoPipelineForText2Image

pipeline = AutoPipelineForText2Image.from_pretrained("{base_model or "BASE_MODEL"}")
pipeline.load_lora_weights("FOLDER_OR_HUB_ID", weight_name="{DIFFUSERS_FILE}")
image = pipeline("{trigger or "a picture"}").images[0]
```

## Training

| | |
|---|---|
{table}
"""


def _score_table(scores: Mapping[str, Scores]) -> str:
    """The section of scores; empty without."""
    if not measured_names(scores.values()):
        return ""
    lines = score_lines(scores, scores, None)
    rows = "\n".join(f"| {title} | {' | '.join(cells)} |" for title, cells in lines.items())
    return f"""
## Scores

Of pictures drawn with the same prompts and noise; \u00b1 is half a 95 % interval.

| | {" | ".join(scores)} |
|---{"|---" * len(scores)}|
{rows}
"""
