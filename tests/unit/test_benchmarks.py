"""The yardstick's own parts: what a window counts, what the table says, and that each loop runs."""

from collections.abc import Iterator
from itertools import chain
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import comparisons, pictures, results, windows
from benchmarks.cases import GROUPS, ROWS, chosen_cases
from benchmarks.data import write_folder
from benchmarks.measuring import LOOPS, Turns
from benchmarks.results import Result, machine, with_table
from benchmarks.table import HEADERS, Ceiling, Measured, cells
from benchmarks.windows import FLOPS, SYNCS, Order, RowError, Runner

CPU = torch.device("cpu")


def test_a_window_counts_its_own_steps_and_not_those_before_it() -> None:
    ours, theirs = Pipe()
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    for order in (Order(4), Order(4, SYNCS), Order(4, FLOPS), None):
        ours.send(order)
    steps = 0
    for _ in windows.windows(theirs, CPU):
        steps += 1
        (left @ right).sum().item()
        left.sum().item()
    timed, waits, flops = (ours.recv() for _ in range(3))
    assert steps == 3 * (4 + windows.WARM_STEPS)
    assert timed.step_s > 0
    assert waits.count == 2  # numbers read in a step
    assert flops.count == 2 * 2 * 3 * 5  # a multiplication and an addition for each product


def test_a_window_ends_when_nobody_asks_any_more() -> None:
    ours, theirs = Pipe()
    ours.close()
    assert list(windows.windows(theirs, CPU)) == []


def test_the_table_has_medians_spread_and_ratios_of_medians() -> None:
    rows = {
        "floor": Measured([0.1, 0.3, 0.2], 100.4, 0.0),
        "ours": Measured([0.25, 0.2, 0.4], 200.0, 1.5),
        "tutorial": "OutOfMemoryError: no",
    }
    ceiling = Ceiling(flop=1e9, matmul_flop_per_s=1e10)
    floor, ours, tutorial = cells("tiny", 8, rows, ceiling)
    known = ("200.0", "100.0 to 300.0", "40.0", "1.00", "0.80", "100", "0.0", "50%")
    assert floor == ("tiny", "floor", *known)
    known = ("250.0", "200.0 to 400.0", "32.0", "1.25", "1.00", "200", "1.5", "40%")
    assert ours == ("tiny", "ours", *known)
    assert tutorial == ("tiny", "tutorial", "OutOfMemoryError: no", *[""] * 7)
    assert {len(line) for line in (floor, ours, tutorial)} == {len(HEADERS)}


def test_without_a_floor_there_is_no_ratio_to_it() -> None:
    [line] = cells("tiny", 1, {"ours": Measured([0.5], 1.0, 0.0)})
    assert line[5:7] == ("", "1.00")
    assert line[-1] == ""


def test_pictures_a_second_stand_against_the_last_way() -> None:
    batched, plain = pictures.cells("drawing", {"batches": [2.0, 4.0, 3.0], "single": [2.0]})
    assert batched == ("drawing", "batches", "3.0", "2.0 to 4.0", "1.50")
    assert plain == ("drawing", "single", "2.0", "2.0 to 2.0", "1.00")


def test_cases_are_chosen_by_group_and_by_name() -> None:
    chosen = chosen_cases("tiny,sd15_gpu_b2")
    assert {group: [case.name for case in cases] for group, cases in chosen.items()} == {
        "tiny": ["tiny_frozen", "tiny_text"],
        "sd15_gpu": ["sd15_gpu_b2"],
    }
    with pytest.raises(ValueError, match="--cases=sd3: unknown; choose of tiny, sd15_cpu"):
        chosen_cases("tiny,sd3")


def test_every_row_of_every_case_has_a_loop_and_a_place_on_the_page() -> None:
    cases = list(chain(*GROUPS.values()))
    assert len({case.name for case in cases}) == len(cases)
    assert {row for case in cases for row in case.rows} == set(ROWS) == set(LOOPS)
    page = results.PAGE.read_text("utf-8")
    for name in (*GROUPS, "start", "pictures"):
        with_table(page, Result(name=name, command="", machine=machine(), headers=("a",)))


def test_a_result_takes_its_place_on_the_page_and_is_known_on_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "speed.md"
    page.write_text("above\n<!-- tiny:begin -->\nold\n<!-- tiny:end -->\nbelow\n", "utf-8")
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    known = machine()
    result = Result(name="tiny", command="measure", machine=known, headers=("a", "b", "c"))
    results.publish(result)
    assert "old" in page.read_text("utf-8")  # nothing was measured
    result.rows.append(("x", "y", "1"))
    result.measured["x"] = 1
    results.publish(result)
    text = page.read_text("utf-8")
    assert text.startswith("above\n<!-- tiny:begin -->\n`measure`: ")
    assert text.endswith(
        ".\n\n| a | b | c |\n| --- | --- | ---: |\n| x | y | 1 |\n<!-- tiny:end -->\nbelow\n"
    )
    assert results.earlier(Result(name="tiny", command="", machine=known, headers=())).rows == [
        ("x", "y", "1")
    ]
    elsewhere = {**known, "device": "another"}
    assert not results.earlier(
        Result(name="tiny", command="", machine=elsewhere, headers=())
    ).measured
    with pytest.raises(ValueError, match="no marks <!-- start:begin -->"):
        with_table(text, Result(name="start", command="", machine=known, headers=()))


def breaking(leave: Iterator[None]) -> None:
    """A loop of one step, for a process of its own."""
    next(leave)
    raise ValueError("no such thing\nat all")


@pytest.mark.slow
def test_why_a_loop_failed_comes_out_of_its_process() -> None:
    with Runner(breaking, (), "cpu") as runner:
        with pytest.raises(RowError, match="^ValueError: no such thing$"):
            runner.run(Order(1))
        with pytest.raises(RowError, match="its process ended with code 0"):
            runner.run(Order(1))


class Failing(Runner):
    """A loop without a process, which fails at its second window."""

    def __init__(self) -> None:
        self.asked = 0

    def run(self, order: Order) -> windows.Window:
        self.asked += 1
        if self.asked > 1:
            raise RowError("no more")
        return windows.Window(1.0, 1.0, 0.0)


def test_a_loop_that_failed_is_not_asked_again() -> None:
    turns, failing = Turns(), Failing()
    turns.add("floor", failing)
    assert turns.take(Order(1)) == turns.take(Order(1)) == {}
    assert turns.failed == {"floor": "no more"}
    assert failing.asked == 2


@pytest.mark.parametrize("row", [row for row in ROWS if row != "ours, uncached"])
def test_each_loop_trains_the_tiny_base(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(comparisons, "TUTORIAL_WORKERS", 0)
    monkeypatch.setattr(windows, "WARM_STEPS", 1)
    write_folder(tmp_path / "pictures", 2)
    loop, _ = LOOPS[row]
    [case] = (case for case in GROUPS["tiny"] if case.trains_text)
    overrides = [*case.overrides, f"data.root={tmp_path / 'pictures'}", "data.batch_size=2"]
    ours, theirs = Pipe()
    ours.send(Order(1))
    ours.send(None)
    loop(overrides, tmp_path / "run", windows.windows(theirs, CPU))
    seen = ours.recv()
    AcceleratorState._reset_state(reset_partial_state=True)  # of the library example
    assert seen.step_s > 0
