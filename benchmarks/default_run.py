"""``python -m benchmarks.default_run RUN_FOLDER``: what the default run's LoRA learnt and kept.

The face gap comes from the run's own report. Whether prompts are still followed is measured on
prompts that no training used, drawn with and without the LoRA at the run's guidance, and read by
the shipped attribute classifier. ``--write`` puts the table and the run's pictures into the README.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from rich.table import Table

from sdlora.adapters.formats import apply_lora, read_lora
from sdlora.assets.check import PROMPT_SEEDS, prompts_followed
from sdlora.build.scorers import embedded
from sdlora.data.pictures import to_tensor, to_unit_range
from sdlora.files import atomic_path, write_text
from sdlora.generate import Prompt, generate
from sdlora.models.loading import ModelSource, load_stable_diffusion
from sdlora.models.sd import StableDiffusion
from sdlora.progress import Progress
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.portraits import caption, random_scene

ROOT = Path(__file__).resolve().parents[1]
OPENING, CLOSING = "<!-- results:begin -->", "<!-- results:end -->"


def followed(
    family: StableDiffusion, count: int, guidance_scale: float, progress: Progress
) -> dict[str, float]:
    """Share of named attributes that the model draws, overall and one by one, in [0, 1]."""
    texts = [caption(random_scene(seed), seed) for seed in PROMPT_SEEDS[:count]]
    images = generate(
        family.pipeline(),
        [Prompt(text, 0) for text in texts],
        negative_prompt="",
        num_steps=30,
        guidance_scale=guidance_scale,
        sampler="ddim",
        resolution=64,
        batch_size=25,
        progress=progress,
    )
    pixels = to_unit_range(torch.stack([to_tensor(image) for image in images]))
    classifier = AttributeClassifier.from_pretrained(embedded("tiny-attributes")).eval()
    return prompts_followed(classifier, pixels, texts)


def measure(run: Path, count: int, progress: Progress) -> list[tuple[str, str, str, str]]:
    """Rows of (what, base, LoRA, bound)."""
    report = json.loads((run / "report.json").read_text("utf-8"))
    scores, real = report["scores"], report["real_pictures"]
    family = load_stable_diffusion(ModelSource(path="embedded:tiny-sd"), seed=0)
    guidance = float(report["settings"]["config"]["sampling"]["guidance_scale"])
    base = followed(family, count, guidance, progress)
    apply_lora(family.unet, family.text_encoder, read_lora(run / "lora"))
    lora = followed(family, count, guidance, progress)
    distance = {name: scores[name]["face_distance"] for name in ("base", "LoRA")}
    rows = [
        (
            f"face distance (real pictures: {real['face_distance']:.3f})",
            f"{distance['base']:.3f}",
            f"{distance['LoRA']:.3f}",
            "",
        ),
        ("gap closed", "", f"{report['gap_closed']['LoRA']:.0%}", ">= 60 %"),
        ("faceless", *(str(scores[name]["faceless"]) for name in ("base", "LoRA")), ""),
        ("CLIP score", *(f"{scores[n]['clip_score']:.1f}" for n in ("base", "LoRA")), ""),
    ]
    for name in base:
        bound = f">= {base[name] - 0.05:.1%}" if name == "overall" else ""
        rows.append((f"prompt followed: {name}", f"{base[name]:.1%}", f"{lora[name]:.1%}", bound))
    return rows


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.default_run", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=200, help="how many, at most 200")
    parser.add_argument("--write", action="store_true", help="put the results into the README")
    options = parser.parse_args()
    with Progress() as progress:
        rows = measure(options.run, options.prompts, progress)
        table = Table("", "base", "LoRA", "wanted", title="The default run")
        for row in rows:
            table.add_row(*row)
        progress.print(table)
    if not options.write:
        return
    lines = ["| | base | LoRA | wanted |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    readme = (ROOT / "README.md").read_text("utf-8")
    before, _, rest = readme.partition(OPENING)
    after = rest.partition(CLOSING)[2]
    text = "\n".join([OPENING, *lines, CLOSING])
    write_text(ROOT / "README.md", before + text + after)
    with atomic_path(ROOT / "docs" / "default_run.png") as temporary:
        shutil.copyfile(options.run / "samples" / "last.png", temporary)


if __name__ == "__main__":
    main()
