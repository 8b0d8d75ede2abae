"""``python -m benchmarks.default_run RUN_FOLDER``: what the default run's LoRA learnt and kept.

The face gap comes from the run's own report; whether its prompts are still followed is read off its
pictures, base and LoRA, by the shipped attribute classifier. ``--write`` puts the table and the
run's picture grid into the README, where those of its base are.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sdlora.assembly.scorers import asset_folder
from sdlora.data.pictures.decode import read_picture, to_tensor, to_unit_range
from sdlora.runtime.files import atomic_path, write_text
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.training.assets_check import prompts_followed

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"embedded:tiny-sd": "default_run", "embedded:tiny-flow": "flow_run"}
"""``model.path`` of a shipped base -> its marks in the README, and its picture in ``docs/``."""


def followed(folder: Path, prompts: list[str]) -> dict[str, float]:
    """Share of named attributes that a folder's pictures show, overall and one by one, [0, 1]."""
    paths = sorted(folder.glob("*.png"))
    pixels = to_unit_range(torch.stack([to_tensor(read_picture(path)) for path in paths]))
    classifier = AttributeClassifier.from_pretrained(asset_folder("tiny-attributes")).eval()
    return prompts_followed(classifier, pixels, prompts)


def measure(run: Path) -> list[tuple[str, str, str, str]]:
    """Rows of (what, base, LoRA, wanted)."""
    report = json.loads((run / "report.json").read_text("utf-8"))
    scores, real = report["scores"], report["real_pictures"]
    prompts = scores["base"]["per_picture"]["prompt"]
    values = {name: scores[name]["values"] for name in ("base", "LoRA")}
    base = followed(run / "samples" / "base", prompts)
    lora = followed(run / "samples" / "last", prompts)
    distance = [f"{row['face_distance']:.3f}" for row in values.values()]
    clip = [f"{row['clip_score']:.1f}" for row in values.values()]
    faceless = [str(row["faceless"]) for row in values.values()]
    rows = [
        (f"face distance (real pictures: {real['values']['face_distance']:.3f})", *distance, ""),
        ("gap closed", "", f"{report['gap_closed']['LoRA']:.0%}", ">= 60 %"),
        ("faceless", *faceless, ""),
        ("CLIP score", *clip, ""),
    ]
    for name in base:
        bound = f">= {base[name] - 0.05:.1%}" if name == "overall" else ""
        rows.append((f"prompt followed: {name}", f"{base[name]:.1%}", f"{lora[name]:.1%}", bound))
    return rows


def write(run: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """Put a run's table and picture into the README.

    Raises:
        SystemExit: If its base has no place there.
    """
    config = json.loads((run / "config.json").read_text("utf-8"))["config"]
    base = config["model"]["path"]
    if base not in PLACES:
        raise SystemExit(f"{run}: the README has numbers of {', '.join(PLACES)}, not of {base}")
    lines = ["| | base | LoRA | wanted |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    opening, closing = f"<!-- {PLACES[base]}:begin -->", f"<!-- {PLACES[base]}:end -->"
    before, _, rest = (ROOT / "README.md").read_text("utf-8").partition(opening)
    after = rest.partition(closing)[2]
    text = "\n".join([opening, *lines, closing])
    write_text(ROOT / "README.md", before + text + after)
    with atomic_path(ROOT / "docs" / f"{PLACES[base]}.png") as temporary:
        shutil.copyfile(run / "samples" / "last.png", temporary)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.default_run", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", action="store_true", help="put the results into the README")
    options = parser.parse_args()
    rows = measure(options.run)
    table = Table("", "base", "LoRA", "wanted", title=str(options.run))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.write:
        write(options.run, rows)


if __name__ == "__main__":
    main()
