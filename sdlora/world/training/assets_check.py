"""``python -m sdlora.world.training.assets_check``: measured quality of the shipped nets."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from rich.table import Table
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from sdlora.runtime.files import write_text
from sdlora.runtime.places import ASSETS
from sdlora.runtime.progress import Progress
from sdlora.runtime.randomness import generator
from sdlora.world.attributes import FOLLOWED, AttributeClassifier
from sdlora.world.face import FaceEmbedder
from sdlora.world.portraits import HELD_OUT_SEEDS, attributes_named, caption, random_scene
from sdlora.world.training import attribute_classifier as attributes_training
from sdlora.world.training import clip_model as clip
from sdlora.world.training import face_embedder as face_training
from sdlora.world.training.many_portraits import draw_many, to_tensor
from sdlora.world.training.vae import reconstruction_psnr

README = ASSETS / "README.md"
OPENING, CLOSING = "<!-- quality -->", "<!-- /quality -->"
# Parts of the held-out range: drawings, people, prompts; examples use its far end.
DRAWING_SEEDS = list(HELD_OUT_SEEDS[20_000:20_500])
PROMPT_SEEDS = list(HELD_OUT_SEEDS[30_000:30_200])
NUM_PEOPLE, PICTURES_EACH = 100, 6
SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class Base:
    """A shipped base, and how it is drawn here.

    Attributes:
        folder: Its folder in the assets.
        num_steps: Steps of its pipeline's own sampler.
        guidance_scale: Scale of classifier-free guidance as its pipeline counts it.
    """

    folder: str
    num_steps: int
    guidance_scale: float


BASES = (
    Base("tiny-sd", num_steps=30, guidance_scale=4.0),
    Base("tiny-flow", num_steps=28, guidance_scale=2.0),  # Z-Image's counts from 0: our 3
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number and its bound.

    Attributes:
        name: Name of the measurement.
        value: A share 0 to 1, or dB.
        bound: The promised bound; None: none.
        at_most: Whether the bound is an upper one.
    """

    name: str
    value: float
    bound: float | None = None
    at_most: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the value is within its bound."""
        if self.bound is None:
            return True
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def words(self) -> tuple[str, str, str]:
        """Name, value and bound as printed."""

        def shown(number: float) -> str:
            return f"{number:.2f} dB" if "PSNR" in self.name else f"{100 * number:.1f} %"

        bound = (
            "" if self.bound is None else f"{'<=' if self.at_most else '>='} {shown(self.bound)}"
        )
        return self.name, shown(self.value), bound


def draw_prompts(prompts: list[str], base: Base, progress: Progress) -> Tensor:
    """Draw prompts with a base, 25 at a time, one generator for each.

    Args:
        prompts: N texts.
        base: What draws.
        progress: Shows a bar.

    Returns:
        ``[N, 3, 64, 64]`` in [-1, 1].
    """
    pipeline: Any = DiffusionPipeline.from_pretrained(ASSETS / base.folder)
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in progress.track(range(0, len(prompts), 25), f"drawing with {base.folder}"):
        some = prompts[start : start + 25]
        sources = [generator(0, "check", start + i) for i in range(len(some))]
        drawn = pipeline(
            some,
            height=SIDE_PX,
            width=SIDE_PX,
            num_inference_steps=base.num_steps,
            guidance_scale=base.guidance_scale,
            generator=sources,
            output_type="pt",
        ).images
        parts.append(drawn * 2 - 1)
    return torch.cat(parts)


def prompts_followed(
    classifier: AttributeClassifier, pictures: Tensor, prompts: list[str]
) -> dict[str, float]:  # noqa: E501
    """Share of the named attributes that the pictures show, ``overall`` and one by one.

    Args:
        classifier: Reads the pictures.
        pictures: ``[N, 3, H, W]`` in [-1, 1].
        prompts: N texts.
    """
    seen = [answer for part in pictures.split(100) for answer in classifier.predict(part)]
    named: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for answer, prompt in zip(seen, prompts, strict=True):
        for name, value in attributes_named(prompt).items():
            if name in FOLLOWED:
                named.update([name, "overall"])
                right.update([name, "overall"] if answer[name] == value else [])
    return {name: right[name] / named[name] for name in ("overall", *FOLLOWED) if named[name]}


def measure_nets(num_drawings: int = 500) -> list[Row]:
    """Measure autoencoder, classifier, face embedder and scorer on unseen drawings."""
    seeds = DRAWING_SEEDS[:num_drawings]
    pictures = to_tensor(draw_many(seeds, num_processes=1))
    psnr = reconstruction_psnr(AutoencoderKL.from_pretrained(ASSETS / "tiny-sd" / "vae"), pictures)
    classifier = AttributeClassifier.from_pretrained(ASSETS / "tiny-attributes")
    right = attributes_training.accuracy(classifier, pictures, seeds)
    scorer = CLIPModel.from_pretrained(ASSETS / "tiny-clip")
    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "tiny-clip")
    matched = clip.measure(scorer, tokenizer, pictures, seeds)
    people = [HELD_OUT_SEEDS[40_000 + index // PICTURES_EACH] for index in range(len(seeds))]
    faces = draw_many(seeds, people, num_processes=1)
    faces = faces[: len(faces) // PICTURES_EACH * PICTURES_EACH]
    others = face_training.faceless_pictures(HELD_OUT_SEEDS[40_000 : 40_000 + num_drawings])
    embedder = FaceEmbedder.from_pretrained(ASSETS / "tiny-face")
    known = face_training.measure(
        embedder, faces.reshape(-1, PICTURES_EACH, *faces.shape[1:]), others
    )
    return [
        Row("autoencoder: PSNR of unseen drawings", psnr, 28.0),
        *(Row(f"classifier: {name}", share, 0.98) for name, share in right.items()),
        Row("face embedder: equal error rate", known["equal_error_rate"], 0.05, at_most=True),
        Row("face embedder: face / no face", known["face_accuracy"], 0.98),
        Row("CLIP scorer: top-1 of 50 captions", matched["retrieval_top1"], 0.9),
        Row("CLIP scorer: altered caption scores lower", matched["altered_rejected"]),
    ]


def measure_base(base: Base, num_prompts: int, progress: Progress) -> list[Row]:
    """Measure how well a base follows unseen prompts."""
    prompts = [caption(random_scene(seed), seed) for seed in PROMPT_SEEDS[:num_prompts]]
    pictures = draw_prompts(prompts, base, progress)
    classifier = AttributeClassifier.from_pretrained(ASSETS / "tiny-attributes")
    embedder = FaceEmbedder.from_pretrained(ASSETS / "tiny-face")
    shares = prompts_followed(classifier, pictures, prompts)
    with torch.no_grad():
        faces = embedder(pictures).face_probability > 0.5
    rows = [Row(f"{base.folder}: named attributes, all", shares.pop("overall"), 0.92)]
    rows += [Row(f"{base.folder}: {name}", share) for name, share in shares.items()]
    return [*rows, Row(f"{base.folder}: pictures with a face", float(faces.float().mean()))]


def write_table(rows: list[Row], readme: Path = README) -> None:
    """Write the table between the markers of ``readme``.

    Raises:
        ValueError: If the file lacks the markers.
    """
    text = readme.read_text(encoding="utf-8")
    if OPENING not in text or CLOSING not in text:
        raise ValueError(f"{readme} has no {OPENING} ... {CLOSING}: put the two markers back")
    lines = ["| what | measured | meant |", "| --- | --- | --- |"]
    lines += ["| " + " | ".join(row.words()) + " |" for row in rows]
    before, rest = text.split(OPENING, 1)
    after = rest.split(CLOSING, 1)[1]
    table = "\n".join(lines)
    write_text(readme, f"{before}{OPENING}\n\n{table}\n\n{CLOSING}{after}")


def main() -> None:
    """Measure, print the table, and exit with 1 if a bound is not met."""
    parser = argparse.ArgumentParser(
        prog="python -m sdlora.world.training.assets_check", description=__doc__
    )
    parser.add_argument("--prompts", type=int, default=200, help="drawn by each base; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="the table into the assets' README")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with Progress() as progress:
        rows = measure_nets()
        for base in BASES if options.prompts else ():
            rows += measure_base(base, options.prompts, progress)
        table = Table("what", "measured", "meant", "")
        for row in rows:
            table.add_row(*row.words(), "" if row.is_kept else "[red]missed")
        progress.print(table)
    if options.write:
        write_table(rows)
    raise SystemExit(0 if all(row.is_kept for row in rows) else 1)


if __name__ == "__main__":
    main()
