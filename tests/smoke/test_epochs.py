"""Epochs as a unit of length and of intervals, through the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.smoke.conftest import TrainHere

COMMON = (
    *("sampling.num_steps=2", "sampling.num_prompts=2", "evaluation=none", "logger=none"),
    *("data.batch_size=2", "data.val_fraction=0"),
)


@pytest.mark.slow
def test_epochs_become_steps(
    tmp_path: Path,
    pictures: Path,
    random_base: Path,
    train_only: TrainHere,
    message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    train_only(
        *COMMON,
        f"model.path={random_base}",
        f"data.root={pictures}",
        "trainer.max_epochs=2",
        "checkpoint.every_n_epochs=1",
        "sampling.every_n_epochs=0.5",
        f"run_dir={run}",
    )
    told = capsys.readouterr().out
    # five pictures in twos are three batches
    line = "trainer.max_epochs=2 is trainer.max_steps=6: 3 batches an epoch, 1 in a step"
    assert line in told.splitlines()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step_0000003",
        "step_0000006",
    ]
    stored = json.loads((run / "config.json").read_text("utf-8"))["config"]
    assert stored["trainer"]["max_steps"] == 6
    assert stored["trainer"]["max_epochs"] is None
    assert stored["sampling"]["every_n_steps"] == 2
    for asked, key in (((), "max_steps"), (("trainer.max_epochs=2",), "max_epochs")):
        train_only(f"resume={run}", *asked)
        said = f"is finished: all 6 steps are done and exported; raise trainer.{key} to"
        assert said in capsys.readouterr().out
    train_only(f"resume={run}", "trainer.max_epochs=3")
    assert "continuing from step 6 of 9" in capsys.readouterr().out
    train_only(f"resume={run}", "trainer.max_steps=10")  # in the other unit
    assert "continuing from step 9 of 10" in capsys.readouterr().out


def test_two_units_for_one_thing_are_refused(message_of: Callable[..., str]) -> None:
    told = message_of("trainer.max_epochs=2", "trainer.max_steps=10")
    assert told == (
        "trainer.max_epochs=2: says in epochs what trainer.max_steps=10 says in steps; leave out "
        "one of them"
    )
    assert message_of("checkpoint.every_n_epochs=0").startswith(
        "checkpoint.every_n_epochs=0.0: must be a finite number > 0"
    )


def test_a_stream_has_no_epochs_of_batches(message_of: Callable[..., str]) -> None:
    told = message_of(
        "data=hub",
        "data.root=owner/name",
        "data.hub.streaming=true",
        "data.cache=off",
        "data.buckets.mode=square",
        "data.val_fraction=0",
        "trainer.max_epochs=2",
    )
    assert told == (
        "trainer.max_epochs=2.0: a streamed set has no epochs of batches; set it to null, and "
        "trainer.max_steps"
    )
