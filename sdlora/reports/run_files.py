"""The files of a run's folder, each with what it is for, as the page lists them."""

from dataclasses import dataclass
from pathlib import Path

from sdlora.adapters.lora_places import DIFFUSERS_FILE, PLAIN
from sdlora.runs.checkpoints import CHECKPOINTS
from sdlora.runs.finished import FINISHED
from sdlora.runs.identity import CONFIG
from sdlora.runs.metrics import METRICS
from sdlora.runs.report import REPORT
from sdlora.runs.run_folder import LAST_STEP, LORA, PIPELINE
from sdlora.runs.samples import SAMPLES

PURPOSES = (
    (f"{LORA}/{DIFFUSERS_FILE}", "diffusers: pipe.load_lora_weights"),
    (
        f"{LORA}/*{PLAIN}.safetensors",
        "programs that do not read the trained type: the same as a plain LoRA",
    ),
    (f"{LORA}/*.safetensors", "ComfyUI and A1111"),
    (f"{LORA}/embeddings/*.safetensors", "diffusers, ComfyUI and A1111: the new word"),
    (f"{LORA}/*/adapter_model.safetensors", "peft: PeftModel.from_pretrained of the folder"),
    (f"{LORA}/README.md", "Hugging Face Hub: the model card"),
    (f"{LORA}/scores.json", "the chosen step and its scores"),
    (PIPELINE, "diffusers: DiffusionPipeline.from_pretrained; the chosen step"),
    (LAST_STEP, "the same of the last step"),
    (f"{SAMPLES}/*.png", "grids of pictures: the base above, training pictures last"),
    (SAMPLES, "all pictures one by one"),
    ("contact_sheet*.png", "the pictures as training cuts them"),
    ("dataset.json", "every finding on the pictures, by name"),
    (METRICS, "every number, one line a step"),
    (REPORT, "the final scores"),
    (CONFIG, "the whole config"),
    (FINISHED, "the last step and the files of the run's end"),
    (f"{CHECKPOINTS}/step_*", "what resume= continues from"),
    ("tensorboard", "curves and grids: tensorboard --logdir of the run's folder"),
    ("csv", "curves as tables, of each start one"),
    ("wandb", "curves and grids: wandb sync of the run in it"),
)
"""Pattern below the run's folder -> purpose; a path belongs to the first pattern that it fits."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file or folder of a run.

    Attributes:
        name: Its path below the run's folder.
        purpose: What it is for.
        size: Its size as text, with all that is in a folder.
    """

    name: str
    purpose: str
    size: str


def run_files(run: Path) -> list[ListedFile]:
    """What is in a run's folder, the files to use first."""
    listed: dict[Path, ListedFile] = {}
    for pattern, purpose in PURPOSES:
        for path in sorted(run.glob(pattern)):
            if path not in listed:
                name = path.relative_to(run).as_posix() + "/" * path.is_dir()
                listed[path] = ListedFile(name, purpose, _size_text(path))
    return list(listed.values())


def _size_text(path: Path) -> str:
    """Size in kB or MB of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"
