"""``python -m benchmarks.full_size``: train the real architectures, with random weights.

Writes a base folder as large as Stable Diffusion 1.5 (or XL) in bf16, trains a few steps on the
example pictures with ``train.py``, and prints the time of a step and the largest memory. Weights
are random, so that nothing is downloaded: time and memory do not depend on what they are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from rich.console import Console
from rich.table import Table
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from sdlora.assembly.scorers import asset_folder
from tests.architectures import CLIP_L, OPENCLIP_BIGG, SD15_UNET, SD_VAE, SDXL_UNET

REPOSITORY = Path(__file__).resolve().parent.parent


def sd15() -> DiffusionPipeline:
    """Stable Diffusion 1.5; words are those of the embedded base's tokenizer."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**SD_VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        tokenizer=_tokenizer(),
        unet=UNet2DConditionModel(**SD15_UNET),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> DiffusionPipeline:
    """Stable Diffusion XL; words are those of the embedded base's tokenizer."""
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**{**SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
        text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**OPENCLIP_BIGG)),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=UNet2DConditionModel(**SDXL_UNET),
        scheduler=_scheduler(),
        add_watermarker=False,
    )


FAMILIES: dict[str, Callable[[], DiffusionPipeline]] = {"sd15": sd15, "sdxl": sdxl}


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(asset_folder("tiny-sd") / "tokenizer")


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def write_base(folder: Path, family: str) -> Path:
    """Write a base with random weights, unless it is there."""
    if not (folder / "model_index.json").is_file():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)  # half the memory from the start
        try:
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # which is faster
                pipeline = FAMILIES[family]()
            pipeline.save_pretrained(folder)
        finally:
            torch.set_default_dtype(before)
    return folder


def measure(base: Path, family: str, overrides: list[str]) -> tuple[float, float]:
    """Pictures a second in the last step, and the largest memory of the run in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"model={family}",
            f"model.path={base}",
            "trainer.precision=bf16",
            "trainer.log_every_n_steps=1",
            "evaluation=none",
            "sampling.num_prompts=1",
            "sampling.num_steps=1",
            "sampling.every_n_steps=0",
            "checkpoint.every_n_steps=0",
            "logger=none",
            f"hydra.run.dir={folder}",
        ]
        command = [sys.executable, str(REPOSITORY / "train.py"), *settings, *overrides]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
    found = [line for line in map(json.loads, lines) if "train/images_per_s" in line]
    return found[-1]["train/images_per_s"], found[-1]["train/peak_memory_mib"]


def main() -> None:
    """Write the base, train, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--folder", type=Path, help="where the base lies, to be kept; 2 to 7 GiB")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / arguments.family
        base = write_base(folder, arguments.family)
        own = [
            f"trainer.max_steps={arguments.steps}",
            f"data.resolution={arguments.resolution}",
            f"data.batch_size={arguments.batch_size}",
        ]
        rate, memory_mib = measure(base, arguments.family, [*own, *overrides])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPUs"
    table = Table(title=f"{arguments.family}, random weights in bf16, on {device}")
    for heading in ("side, px", "batch", "s a step", "peak memory, GiB"):
        table.add_column(heading, justify="right")
    size = (str(arguments.resolution), str(arguments.batch_size))
    table.add_row(*size, f"{arguments.batch_size / rate:.2f}", f"{memory_mib / 1024:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
