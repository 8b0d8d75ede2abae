"""One display for all bars; what is printed is shown as it is."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from sdlora.runtime.progress import STEPS_A_LINE, Progress, wrapped


def shown(progress: Progress) -> list[tuple[str, float, float | None, str]]:
    return [
        (task.description, task.completed, task.total, task.fields["note"])
        for task in progress.tasks()
    ]


def test_tracking_counts_what_is_done_and_takes_the_bar_away() -> None:
    progress = Progress(enabled=False)
    seen = []
    for item in progress.track("abc", "letters"):
        seen.append((item, shown(progress)))
    # while an item is worked on, the ones before it are done
    assert seen == [(item, [("letters", n, 3, "")]) for n, item in enumerate("abc")]
    assert shown(progress) == []


def test_a_generator_has_no_known_length_unless_told() -> None:
    progress = Progress(enabled=False)

    def two() -> Iterator[int]:
        yield from (1, 2)

    assert [shown(progress)[0][2] for _ in progress.track(two(), "x")] == [None, None]
    assert [shown(progress)[0][2] for _ in progress.track(two(), "x", total=2)] == [2, 2]


def test_the_bar_goes_when_the_work_fails_or_is_left() -> None:
    progress = Progress(enabled=False)

    def fail_while_tracking() -> None:
        for _ in progress.track([1, 2], "x"):
            raise ZeroDivisionError

    def fail_while_working() -> None:
        with progress.working("thinking"):
            assert shown(progress) == [("thinking", 0, None, "")]
            raise ZeroDivisionError

    for fail in (fail_while_tracking, fail_while_working):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert shown(progress) == []
    items = progress.track([1, 2], "x")
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert shown(progress) == []


def test_bars_share_the_display_and_carry_notes() -> None:
    progress = Progress(enabled=False)
    training = progress.add("Training", 400, completed=100)
    sampling = progress.add("sampling", 8)
    progress.update(training, 101, "loss 0.1234")
    progress.update(sampling, 8)
    assert shown(progress) == [("Training", 101, 400, "loss 0.1234"), ("sampling", 8, 8, "")]
    progress.remove(sampling)
    assert shown(progress) == [("Training", 101, 400, "loss 0.1234")]


def test_brackets_in_a_message_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    message = "left out: a[red].png: data.on_error=[raise|skip] " + "long " * 60 + "end"
    with Progress(enabled=False) as progress:
        progress.print(message)
    assert capsys.readouterr().out == message + "\n"  # not wrapped: it can be copied


def test_it_draws_on_a_terminal_and_only_there_when_disabled() -> None:
    for enabled in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=100)
        progress = Progress(enabled=enabled, console=console)
        with progress:
            bar = progress.add("Training", 4)
            progress.update(bar, 3, "loss 0.5")
        assert ("Training" in screen.getvalue()) is enabled
        assert ("3/4" in screen.getvalue()) is enabled
        assert ("loss 0.5" in screen.getvalue()) is enabled


def test_the_display_is_given_back_after_an_error() -> None:
    progress = Progress(enabled=True)
    with pytest.raises(ZeroDivisionError), progress:
        raise ZeroDivisionError
    with progress:  # rich refuses a second live display while one is on
        assert shown(progress) == []


def test_what_fails_beside_the_training_is_said_once_and_remembered_until_it_works() -> None:
    progress = Progress(enabled=False)
    progress.console = Console(file=io.StringIO(), width=200)
    for reason in ("full", "full", "gone"):
        with progress.tolerating("a.txt"):
            raise ValueError(reason)
    assert progress.failing == {"a.txt": "gone"}
    with progress.tolerating("a.txt"):
        pass
    assert progress.failing == {}
    with progress.tolerating("a.txt"):
        raise ValueError("full")
    assert progress.console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"warning: a.txt: {reason}; the run goes on without it" for reason in ("full", "gone")
    ]
    with pytest.raises(KeyboardInterrupt), progress.tolerating("a.txt"):
        raise KeyboardInterrupt


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_bar_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Progress(clock=clock) as progress:
        bar = progress.add("Training", 300)
        for second in range(0, 100, 5):
            clock.now = float(second)
            progress.update(bar, second, "loss 0.5")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Training: ")]
    assert [line.split(",")[:2] for line in lines] == [
        [f"Training: {step}/300", " loss 0.5"] for step in (30, 60, 90)
    ]
    assert all(line.endswith(("gone", "left")) for line in lines)


def test_fifty_training_steps_are_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(clock=Clock()) as progress:
        bar = progress.add("Training", 300, 100, STEPS_A_LINE)
        for step in range(101, 301):
            progress.update(bar, step)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Training: ")]
    assert [line.split(",")[0] for line in lines] == [
        f"Training: {step}/300" for step in (150, 200, 250, 300)
    ]


def test_in_a_notebook_one_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # as a kernel gives it to the commands of a cell
    clock, screen = Clock(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Progress(clock=clock, console=console) as progress:
        bar = progress.add("Training", 300)
        for second in range(8):
            clock.now = second / 2
            progress.update(bar, second, "loss 0.5")
        progress.print("step 7: face 0.55")
        progress.remove(bar)
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().count("\rTraining: ") == 3  # one a second
    # what a notebook shows in the end: letters since the last return of a line stand over others
    shown = [line.rpartition("\r")[2] for line in screen.getvalue().split("\n")]
    assert [line for line in shown if line.strip()] == ["step 7: face 0.55"]


def test_lines_on_a_terminal_break_between_words_and_commands_stay_whole() -> None:
    command = "sdlora evaluate run=outputs/a evaluation=default " + "x" * 60
    message = f"How good: unknown, {'nothing was scored, ' * 4}score it with: {command}"
    *text, last = wrapped(message, 80).split("\n")
    assert all(len(line) <= 80 for line in text)
    assert " ".join(" ".join(text).split()) == message.removesuffix(f" {command}")
    assert last.strip() == command
    path = "outputs/" + "y" * 90
    assert path in wrapped(f"Look at: {path}", 80)  # a path is not broken
    assert wrapped("short", 80) == "short"


@pytest.mark.parametrize("options", [{"enabled": False}, {"quiet": True}])
def test_what_shows_no_bars_writes_no_lines(
    options: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with Progress(**options, clock=clock) as progress:
        bar = progress.add("Training", 300)
        clock.now = 99.0
        progress.update(bar, 3)
    assert "3/300" not in capsys.readouterr().out


def test_what_is_said_stands_in_the_log_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        clock = Clock()
        terminal = Console(file=io.StringIO(), force_terminal=True)
        with Progress(clock=clock, console=terminal) as progress:
            progress.print("left out: a[red].png")
            table = Table("name", "score")
            table.add_row("face distance", "0.5")
            progress.print(table)
            bar = progress.add("Training", 300)
            clock.now = 31.0
            progress.update(bar, 7)
        with Progress(quiet=True) as other:
            other.print("of another process")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    text = (tmp_path / "train.log").read_text("utf-8")
    assert text.startswith("left out: a[red].png\n")
    assert "face distance" in text
    assert "Training: 7/300" in text  # on a terminal in the file alone
    assert "\x1b" not in text
    assert "another process" not in text
