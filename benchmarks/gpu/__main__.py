"""``python -m benchmarks.gpu``: what only a GPU can answer, in nine minutes.

Parts in the order of their worth, each in a process of its own with a time box; what it has found
so far is on the disk whenever it ends, and a part that fails costs the others nothing. Nothing
is downloaded: bases have random weights in the real shapes. ``--tiny`` does the same with the
embedded base on a CPU, where nothing is wanted of a time.
"""

import argparse
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MINUTES = 9.0
TINY_TIMES = 4
"""A CPU gets so many times the minutes and boxes."""

LEAST_S = 15
"""A part that would have less is not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part.

    Attributes:
        function: ``module:function`` of this package.
        box_s: Seconds after which it is stopped.
        about: What it shows, in a line.
    """

    function: str
    box_s: int
    about: str


PARTS: dict[str, Part] = {
    "works_sd15": Part(
        function="works:sd15",
        box_s=110,
        about="Stable Diffusion 1.5 at 512 px: a whole run, and the same stopped and resumed.",
    ),
    "works_fp16": Part(
        function="works:fp16",
        box_s=50,
        about="The gradient scaler after a planted overflow, and in a resumed run.",
    ),
    "right": Part(
        function="right:gradients",
        box_s=40,
        about="A step of the embedded base against float64 on the CPU.",
    ),
    "fast_sd15": Part(
        function="fast:sd15", box_s=90, about="Stable Diffusion 1.5: our step against its floor."
    ),
    "fast_others": Part(function="fast:others", box_s=60, about="Others' loops against our step."),
    "faster": Part(
        function="faster:changes",
        box_s=60,
        about="The floor's step with one thing changed at a time.",
    ),
    "works_sdxl": Part(function="works:sdxl", box_s=100, about="Stable Diffusion XL at 1024 px."),
    "fast_sdxl": Part(
        function="fast:sdxl", box_s=70, about="Stable Diffusion XL: our step against its floor."
    ),
    "works_options": Part(
        function="works:options",
        box_s=110,
        about="What saves memory or time, and the loss beside that without it.",
    ),
    "fast_drawing": Part(function="fast:drawing", box_s=60, about="Pictures drawn and scored."),
}
"""In the order in which they are worth it."""


def main() -> None:
    """Say what the machine is, and measure part by part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="the embedded base, on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_results"), help="JSON, logs and gpu.md"
    )
    parser.add_argument("--scratch", type=Path, help="bases and runs, kept; 12 GiB")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in its own process
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    chosen = options.parts.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        sys.exit(f"--parts={unknown[0]}: unknown; choose of {', '.join(PARTS)}")
    lacking = lacking_packages()
    if lacking:
        sys.exit(
            f"not installed: {', '.join(lacking)}; benchmarks/README.md says how to carry them"
        )
    require_device(options.tiny)
    with tempfile.TemporaryDirectory() as temporary:
        options.scratch = options.scratch or Path(temporary)
        sys.exit(0 if measure(options, [n for n in PARTS if n in chosen]) else 1)


def measure(options: argparse.Namespace, names: list[str]) -> bool:
    """All parts within the time; whether nothing was found wrong and no part failed."""
    from benchmarks.gpu.page import write_page
    from benchmarks.results import Result, headline, machine

    command = f"python -m benchmarks.gpu{' --tiny' * options.tiny}"
    head = headline(Result(name="gpu", command=command, machine=machine(), headers=()))
    print(head, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    times = TINY_TIMES if options.tiny else 1
    ends, went_well = time.monotonic() + 60 * options.minutes * times, True
    abouts = [(name, PARTS[name].about) for name in PARTS]
    page = write_page(options.out, abouts, f"`{command}`: {head}.")
    for name in names:
        left = ends - time.monotonic()
        if left < LEAST_S:
            print(f"{name}: not begun, the time is over", flush=True)
            went_well = False
            continue
        print(f"== {name}: {PARTS[name].about}", flush=True)
        went_well &= _in_box(options, name, min(PARTS[name].box_s * times, left))
        write_page(options.out, abouts, f"`{command}`: {head}.")
    print(f"Look at: {page}", flush=True)
    return went_well


def _in_box(options: argparse.Namespace, name: str, seconds: float) -> bool:
    """One part in a process of its own; whether it ended by itself, with nothing wrong."""
    given = ["--part", name, "--out", str(options.out), "--scratch", str(options.scratch)]
    command = [sys.executable, "-m", "benchmarks.gpu", *given, *["--tiny"] * options.tiny]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped after {seconds:.0f} s; what it found is kept", flush=True)
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.wait()
        return False


def run_part(options: argparse.Namespace) -> None:
    """One part, in this process; exit code 1 if something is wrong."""
    from benchmarks.gpu.bench import Bench, settle
    from benchmarks.gpu.findings import Findings
    from sdlora.runtime.program import settle_libraries

    settle(options.scratch)
    settle_libraries()
    function = pkgutil.resolve_name(f"benchmarks.gpu.{PARTS[options.part].function}")
    findings = Findings(options.out / f"{options.part}.json", _teller())
    log = (options.out / f"{options.part}.log").open("w", encoding="utf-8")
    with redirect_stdout(log), redirect_stderr(log), findings.trying(options.part):
        function(Bench(options.scratch.resolve(), options.tiny), findings)
    sys.exit(any(line.is_right is False for line in findings.lines))


def _teller() -> Callable[[str], None]:
    """Prints where this process began to, whatever is redirected later."""
    return partial(print, file=sys.stdout, flush=True)


def lacking_packages() -> list[str]:
    """What the project needs and this Python has not, in any version."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    names = [re.split(r"[^\w.-]", each)[0] for each in pyproject["project"]["dependencies"]]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def require_device(is_tiny: bool) -> None:
    """Stop where there is no GPU, unless the embedded base is meant."""
    import torch

    if not is_tiny and not torch.cuda.is_available():
        sys.exit("no GPU is here; --tiny measures the embedded base on the CPU")


if __name__ == "__main__":
    main()
