"""Time, memory and host waits of a training step, against the floor and against others' loops.

Each row of a case is a loop in a process of its own; they take turns in windows of some steps, so
that the noise of the machine meets all alike. A step's time is the median of the windows. Cases of
a GPU are not measured where there is none.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cases import GROUPS, Case, chosen_cases
from benchmarks.measuring import measure
from benchmarks.results import Result, earlier, machine, publish, show
from benchmarks.table import HEADERS, NOT_MEASURED, cells
from sdlora.runtime.program import settle_libraries

KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""For every row's process, so that glibc keeps memory that is freed. Whether it gives some back to
the system after each step depends on what lies above it, so on chance: one row's steps took a
quarter longer than another's for that alone."""


def main() -> None:
    """Measure the cases, print their tables last, and write them if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ", ".join(GROUPS)
    parser.add_argument("--cases", default=",".join(GROUPS), help=f"of {known}, or single cases")
    parser.add_argument("--windows", type=int, default=7, help="turns of each row")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a window")
    parser.add_argument("--bases", type=Path, help="keep random bases here; 2 to 7 GiB each")
    parser.add_argument("--write", action="store_true", help="into docs/speed.md and results/")
    options = parser.parse_args()
    try:
        chosen = chosen_cases(options.cases)
    except ValueError as error:
        sys.exit(str(error))
    settle_libraries()
    os.environ.update(KEEPS_MEMORY)
    results = []
    for group, cases in chosen.items():
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["SDLORA_CACHE"] = str(Path(scratch) / "cache")
            results.append(_result(group, cases, options, Path(scratch)))
        if options.write:
            publish(results[-1])
    for result in results:
        show(result)


def _result(
    group: str, cases: Sequence[Case], options: argparse.Namespace, scratch: Path
) -> Result:
    """A group's table; cases that are not asked for are as they were on this machine."""
    command = f"python -m benchmarks --cases {group} --windows {options.windows}"
    result = Result(
        name=group,
        command=f"{command} --steps {options.steps}",
        machine=machine(),
        headers=HEADERS,
    )
    before = earlier(result)
    for case in GROUPS[group]:
        nothing = [(case.name, "", NOT_MEASURED, *("",) * (len(HEADERS) - 3))]
        if case not in cases or (case.device == "cuda" and not torch.cuda.is_available()):
            known = [row for row in before.rows if row[0] == case.name]
            result.rows.extend(known or nothing)
            if case.name in before.measured:
                result.measured[case.name] = before.measured[case.name]
            continue
        print(f"{case.name} ...", flush=True)
        bases = options.bases or scratch / "bases"
        rows, ceiling = measure(case, options.windows, options.steps, scratch / case.name, bases)
        result.rows.extend(cells(case.name, case.batch_size, rows, ceiling))
        result.measured[case.name] = {
            "rows": {
                name: row if isinstance(row, str) else asdict(row) for name, row in rows.items()
            },
            "ceiling": None if ceiling is None else asdict(ceiling),
        }
    return result


if __name__ == "__main__":
    main()
