"""``python -m sdlora.world.training.flow_base FOLDER``: a trained flow base into the assets."""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from sdlora.runtime.files import whole_folder
from sdlora.runtime.places import ASSETS

WEIGHTS = Path("transformer", "diffusion_pytorch_model.safetensors")


def store(pipeline: Path, out: Path) -> None:
    """Copy a pipeline's folder, its transformer in half precision.

    The other parts are small, and stay in float32: a pipeline that loads the folder without a
    ``torch_dtype`` has all parts in float32 then.

    Args:
        pipeline: Folder ``pipeline`` of a run of ``experiment=tiny_flow_base``.
        out: Replaced as a whole.

    Raises:
        ValueError: If a weight does not fit into half precision.
    """
    weights = {name: value.half() for name, value in load_file(pipeline / WEIGHTS).items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{pipeline / WEIGHTS}: {name} exceeds float16's range")
    with whole_folder(out) as folder:
        shutil.copytree(pipeline, folder, dirs_exist_ok=True)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    """Store what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m sdlora.world.training.flow_base", description=__doc__
    )
    parser.add_argument("pipeline", type=Path, help="folder of a run of experiment=tiny_flow_base")
    parser.add_argument("--out", type=Path, default=ASSETS / "tiny-flow")
    options = parser.parse_args()
    store(options.pipeline, options.out)


if __name__ == "__main__":
    main()
