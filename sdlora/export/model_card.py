"""The model card of a LoRA for the Hugging Face Hub: ``README.md`` beside its files."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from PIL import Image

from sdlora import __version__
from sdlora.adapters.lora_places import DIFFUSERS_FILE
from sdlora.adapters.spec import TITLES, LoraSpec
from sdlora.config.data import DataConfig
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.lora import FROM_BASE
from sdlora.config.train import TrainConfig
from sdlora.evaluation.comparison import measured_names, score_lines
from sdlora.evaluation.scores import Scores
from sdlora.export.plain_twin import file_of_others
from sdlora.models.families import description_of
from sdlora.runtime.files import atomic_path, write_text
from sdlora.runtime.places import EMBEDDED

CARD = "README.md"
PICTURES = "pictures"
MOST_PICTURES = 4


def write_model_card(
    folder: Path,
    *,
    config: TrainConfig,
    base: str,
    metadata: Mapping[str, str],
    specs: Mapping[str, LoraSpec],
    samples: Sequence[tuple[str, Image.Image]],
    scores: Mapping[str, Scores],
) -> list[Path]:
    """Write the card and its pictures beside an exported LoRA, without network.

    Written here and not by diffusers' ``load_or_create_model_card``, which looks for an older card
    on the Hub first.

    Args:
        folder: Of the exported LoRA.
        config: Of the run.
        base: Path of the base model, or its id on the Hub.
        metadata: The files' header.
        specs: The trained adapters, by part.
        samples: Prompts and the pictures drawn with them; the first four are shown.
        scores: Name -> scores, the base first; may be empty.

    Returns:
        The files, the card first.
    """
    shown = samples[:MOST_PICTURES]
    pictures = _write_pictures(folder, [image for _, image in shown])
    trigger = trigger_phrase(config.evaluation, config.data)
    widget = [
        {"text": prompt or " ", "output": {"url": path.relative_to(folder).as_posix()}}
        for (prompt, _), path in zip(shown, pictures, strict=True)
    ]
    data = card_data(config.model.family, hub_id(base), trigger, config.export.licence, widget)
    facts = _facts(config, base, metadata, specs)
    schedule = _schedule_lines(metadata)
    name = config.export.name
    adapter = next((spec.type for spec in specs.values()), "lora")
    file = file_of_others(folder, name, adapter).name
    programs = " or ".join(description_of(config.model.family).programs)
    uses = f"In {programs}: `{file}`. {_in_diffusers(hub_id(base), trigger, schedule)}"
    text = _text(name, uses, trigger, facts) + _score_table(scores)
    write_text(folder / CARD, f"---\n{data.to_yaml()}\n---\n\n{text}")
    return [folder / CARD, *pictures]


def _facts(
    config: TrainConfig, base: str, metadata: Mapping[str, str], specs: Mapping[str, LoraSpec]
) -> dict[str, str]:
    """Rows of the card's table."""
    denoiser = description_of(config.model.family).denoiser
    return {
        "Base model": hub_id(base) or Path(base).name,  # no path of this machine
        **_drawn_with(config),
        "Adapted parts": ", ".join(f"{part} ({adapter_facts(s)})" for part, s in specs.items()),
        "Training pictures": metadata["ss_num_train_images"],
        "Resolution": f"{config.data.resolution} px",
        "Steps": metadata["ss_steps"],
        "Batch size": metadata["ss_total_batch_size"],
        "Learning rate": f"{config.optim.denoiser_lr(denoiser):g} ({config.optim.name})",
        "Licence": config.export.licence or "not chosen yet",
        "Made with": f"sdlora {__version__}",
    }


def _drawn_with(config: TrainConfig) -> dict[str, str]:
    """What drew the pictures and scores, where it is another base than the trained one."""
    name, sampling = config.model.draw_with, config.sampling
    if name is None:
        return {}
    how = f"{sampling.num_steps} steps, guidance {sampling.guidance_scale:g}"
    return {"Pictures drawn with": f"{hub_id(name) or Path(name).name}, {how}"}


def card_data(
    family: str,
    base_model: str | None,
    trigger: str | None,
    licence: str | None,
    widget: Sequence[Mapping[str, Any]],
) -> ModelCardData:
    """The metadata of a card for the Hub.

    Args:
        family: ``model.family``.
        base_model: The base's id on the Hub, if it has one.
        trigger: The words that name the trained subject, if any.
        licence: Licence id of the Hub; ``None``: ``unknown``, to be filled in.
        widget: Prompts and pictures.

    Source:
        The Hub's model card metadata (``base_model``, ``instance_prompt``, ``widget``) and the tags
        of diffusers' training scripts.
    """
    tag = description_of(family).hub_tag
    return ModelCardData(
        base_model=base_model,
        license=licence or "unknown",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[
            *("text-to-image", "diffusers", "diffusers-training", "lora"),
            *(tag, f"{tag}-diffusers", "template:sd-lora"),
        ],
        instance_prompt=trigger,
        widget=list(widget) or None,
    )


def trigger_phrase(evaluation: EvaluationConfig, data: DataConfig) -> str | None:
    """The words that name the trained subject, if the config has them."""
    if evaluation.trigger_word:
        return evaluation.trigger_word
    prefixes = {root.prefix for root in data.roots} | {data.captions.prefix}
    named = {prefix.strip(" ,") for prefix in prefixes} - {""}
    return named.pop() if len(named) == 1 else None


def hub_id(path: str) -> str | None:
    """The base model's id on the Hugging Face Hub; ``None`` for a local one."""
    is_id = path.count("/") == 1 and not path.startswith((EMBEDDED, ".", "/", "~"))
    return path if is_id and "\\" not in path and not Path(path).exists() else None


def adapter_facts(spec: LoraSpec) -> str:
    """Type, rank, alpha and variant of an adapter, for the model card."""
    if spec.type == "oft":
        return f"OFT, blocks of {spec.oft_block_size}"
    facts = [f"rank {spec.r}", f"alpha {spec.alpha:g}"]
    facts = facts if spec.type == "lora" else [TITLES[spec.type], *facts]
    if spec.rank_pattern or spec.alpha_pattern:
        facts.append("others by layer")
    if spec.init in FROM_BASE:
        facts.append(f"initialised by {spec.init}, so twice the rank in the files")
    facts += [name for name, on in (("rsLoRA", spec.use_rslora), ("DoRA", spec.use_dora)) if on]
    return ", ".join(facts)


def _write_pictures(folder: Path, images: Sequence[Image.Image]) -> list[Path]:
    paths = [folder / PICTURES / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        with atomic_path(path) as temporary:
            image.save(temporary)
    return paths


def _schedule_lines(metadata: Mapping[str, str]) -> str:
    """Code that gives a pipeline the noise schedule of the training; empty for the usual one."""
    options: dict[str, object] = {}
    if metadata.get("modelspec.prediction_type") == "v":
        options["prediction_type"] = "v_prediction"
    if metadata.get("ss_zero_terminal_snr") == "True":
        options |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if not options:
        return ""
    given = "".join(f"    {key}={value!r},\n".replace("'", '"') for key, value in options.items())
    return (
        "pipeline.scheduler = DDIMScheduler.from_config(\n"
        f"    pipeline.scheduler.config,\n{given})\n"
    )


def _in_diffusers(base_model: str | None, trigger: str | None, schedule: str) -> str:
    """How diffusers uses the files."""
    names = "AutoPipelineForText2Image" + (", DDIMScheduler" if schedule else "")
    return f"""With diffusers:

```python
from diffusers import {names}

pipeline = AutoPipelineForText2Image.from_pretrained({_literal(base_model or "BASE_MODEL")})
{schedule}pipeline.load_lora_weights("FOLDER_OR_HUB_ID", weight_name="{DIFFUSERS_FILE}")
image = pipeline({_literal(trigger or "a picture")}).images[0]
```"""


def _text(name: str, uses: str, trigger: str | None, facts: Mapping[str, str]) -> str:
    """The card below its metadata."""
    call = "" if trigger is None else f"\nUse {_code(trigger)} in the prompt.\n"
    table = "\n".join(f"| {label} | {_cell(value)} |" for label, value in facts.items())
    return f"""# {name}

A LoRA, trained with sdlora.
{call}
<Gallery />

## Use

{uses}

## Training

| | |
|---|---|
{table}
"""


def _literal(text: str) -> str:
    """Text as a literal of Python; a word may come from a stranger's run."""
    return f'"{text}"' if repr(text) == f"'{text}'" and '"' not in text else repr(text)


def _code(text: str) -> str:
    """Text as code in Markdown, whatever backticks and lines it has."""
    line = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _cell(text: str) -> str:
    """Text in a table of Markdown, where no HTML is meant."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _score_table(scores: Mapping[str, Scores]) -> str:
    """The section of scores; empty without scores."""
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
