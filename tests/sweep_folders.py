"""Sweep folders as a sweep leaves them, small enough to work their numbers by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

BASE_FACE, BASE_CLIP = 1.25, 86.0
RULE = {"select": "face_distance", "max_clip_loss": 1.0}


def scores(face: float | None, clip: float, faces: Sequence[float | None] = ()) -> dict[str, Any]:
    """As ``report.json`` has them; ``faces`` are the pictures' own distances."""
    return {
        "num_pictures": len(faces),
        "values": {"face_distance": face, "clip_score": clip},
        "reasons": {},
        "intervals": {} if face is None else {"face_distance": [face - 0.125, face + 0.125]},
        "per_picture": {
            "prompt": [f"prompt {number}" for number in range(len(faces))],
            "face_distance": list(faces),
        },
    }


def write_json(path: Path, value: Any) -> None:
    """With its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_cell(
    folder: Path,
    face: float = 0.5,
    clip: float = 86.0,
    *,
    faces: Sequence[float | None] = (),
    final_face: float | None = None,
    rule: Mapping[str, Any] = RULE,
) -> None:
    """A finished cell: scored at steps 10 and 20, the best at 10; ``final_face`` is at 20."""
    last = scores(face if final_face is None else final_face, clip, faces)
    base = scores(BASE_FACE, BASE_CLIP, [BASE_FACE] * len(faces))
    lines: list[dict[str, Any]] = [{"step": 0, "base/face_distance": BASE_FACE}]
    lines += [{"step": 10, "eval/face_distance": face, "eval/clip_score": clip}]
    lines += [{"step": 20, "eval/face_distance": final_face or face, "eval/clip_score": clip}]
    config = {"evaluation": dict(rule), "trainer": {"max_steps": 20}}
    write_json(folder / "config.json", {"config": config, "hashes": {}})
    write_json(folder / "report.json", {"version": 2, "scores": {"base": base, "LoRA": last}})
    write_json(folder / "lora" / "scores.json", {"step": 10, "scores": scores(face, clip, faces)})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    write_state(folder, "done", seconds=61.0, peak_memory_mib=900.5, file_bytes=2**20)


def write_state(folder: Path, state: str, reason: str | None = None, **more: Any) -> None:
    """The cell's ``cell.json``."""
    known = {"seconds": None, "peak_memory_mib": None, "trainable_parameters": None}
    write_json(folder / "cell.json", {"state": state, "reason": reason, **known, **more})


def write_pictures(folder: Path, colour: str, prompts: Sequence[str] = ("a red cat",)) -> None:
    """Pictures of the base, of step 10 (the first prompt only) and of the last step."""
    listed = []
    for number, text in enumerate(prompts):
        file = f"{number:03d}-0123abcd.png"
        listed.append({"file": file, "text": text, "seed": 0})
        for name, shown in {"base": "grey", "step_0000010": "orange", "last": colour}.items():
            if name == "step_0000010" and number:
                continue
            (folder / "samples" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), shown).save(folder / "samples" / name / file)
    write_json(folder / "samples" / "prompts.json", listed)


def write_sweep(folder: Path, overrides: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``sweep.yaml``; gives the folders of its cells, which are not made."""
    names = [",".join(f"{key}={value}" for key, value in cell.items()) for cell in overrides]
    swept: dict[str, list[Any]] = {}
    for cell in overrides:
        for key, value in cell.items():
            if value not in swept.setdefault(key, []):
                swept[key].append(value)
    stored = {
        "version": 1,
        "name": "rank_lr",
        "command": [f"{key}={','.join(map(str, values))}" for key, values in swept.items()],
        "swept": swept,
        "shared": ["trainer.max_steps=20"],
        "cells": [
            {"number": number, "folder": name, "overrides": dict(cell)}
            for number, (name, cell) in enumerate(zip(names, overrides, strict=True), start=1)
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    return [folder / name for name in names]
