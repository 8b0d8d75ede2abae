"""What happens around the steps: averages by hand, checkpoints on time, signals that save first."""

import copy
import json
import math
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning
import psutil
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn

from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.evaluator import Evaluator
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.models.sd import StableDiffusion
from sdlora.runs.best import BestAdapter, read_best
from sdlora.runs.checkpoints import newest_valid, problem_of, step_folder, steps_on_disk
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt
from sdlora.sweep.pruning import Pruning
from sdlora.training.callbacks import speed as speed_module
from sdlora.training.callbacks.averaging import ExponentialMovingAverage
from sdlora.training.callbacks.drawing import Evaluate
from sdlora.training.callbacks.every_n_steps import OptimizerStepCallback, every
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.callbacks.speed import Throughput, peak_memory_mib
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.loggers import RunTensorBoard
from sdlora.training.module import DiffusionModule, TrainingError
from sdlora.training.validation_loss import FixedSet, ValidationLoss
from tests.unit.tiny_training import Stream, adapted, diffusion_module, trainer


def test_every() -> None:
    assert [step for step in range(7) if every(step, 3)] == [3, 6]  # not at 0
    assert not any(every(step, 0) for step in range(7))


class Recorder(OptimizerStepCallback):
    """Calls ``note`` after each optimizer step and keeps what it gives."""

    def __init__(self, note: Callable[[lightning.Trainer, DiffusionModule], Any]) -> None:
        self.note = note
        self.seen: dict[int, Any] = {}

    def on_optimizer_step(
        self, trainer: lightning.Trainer, module: DiffusionModule, step: int
    ) -> None:
        assert step not in self.seen, "called twice for one step"
        self.seen[step] = self.note(trainer, module)


class OnMicroBatch(Callback):
    """Does ``act`` when micro-batch number ``index`` begins."""

    def __init__(self, index: int, act: Callable[[], None]) -> None:
        self.index = index
        self.act = act

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.index:
            self.act()


def weights_of(trainer: lightning.Trainer, module: DiffusionModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.all_trained_parameters().items()}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_is_an_optimizer_step(
    family: StableDiffusion, tmp_path: Path, accumulate: int
) -> None:
    module = diffusion_module(adapted(family))
    start = weights_of(cast(Any, None), module)
    recorder = Recorder(weights_of)
    run = trainer(tmp_path, 3, [recorder], accumulate_grad_batches=accumulate)
    run.fit(module, datamodule=Stream(accumulate=accumulate))
    assert list(recorder.seen) == [1, 2, 3]
    name = next(iter(start))
    states = [start[name], *(weights[name] for weights in recorder.seen.values())]
    for before, after in zip(states, states[1:], strict=False):
        assert not torch.equal(before, after)  # the weights have moved by then


# averages


class Weights(DiffusionModule):
    """One trained number, as far as the average looks at a module."""

    def __init__(self, value: float) -> None:
        lightning.LightningModule.__init__(self)
        self.weight = nn.Parameter(torch.tensor([value]))

    def all_trained_parameters(self) -> dict[str, nn.Parameter]:
        return {"w": self.weight}


def average_of(values: list[float], decay: float, start: float = 0.0) -> list[float]:
    """The average after each step, where the weight is ``values[n - 1]`` after step ``n``."""
    average, weights = ExponentialMovingAverage(decay), Weights(start)
    average.on_fit_start(cast(Any, None), weights)
    seen = []
    for step, value in enumerate(values, start=1):
        weights.weight.data.fill_(value)
        average.on_optimizer_step(cast(Any, None), weights, step)
        seen.append(average.average["w"].item())
    return seen


def test_the_average_by_hand() -> None:
    """Decays 2/11, 3/12, 4/13, and then 0.35 where (1 + 4) / (10 + 4) = 0.357 is more."""
    first = 9 / 11 * 1.0
    second = 0.25 * first + 0.75 * 2.0
    third = 4 / 13 * second + 9 / 13 * 4.0
    fourth = 0.35 * third + 0.65 * 8.0
    got = average_of([1.0, 2.0, 4.0, 8.0], decay=0.35)
    assert got == pytest.approx([first, second, third, fourth], rel=1e-6)


def test_the_average_in_closed_form() -> None:
    """With a decay below its warm-up throughout, a step from 0 to 1 is 1 - decay ** n."""
    got = average_of([1.0] * 12, decay=0.1)
    assert got == pytest.approx([1 - 0.1**n for n in range(1, 13)], rel=1e-6)
    assert average_of([3.0, 7.0, 5.0], decay=0.0) == [3.0, 7.0, 5.0]  # no memory at all


def test_the_average_of_a_run(family: StableDiffusion, tmp_path: Path) -> None:
    """Against the same recursion in float64 over the weights that the run went through."""
    module = diffusion_module(adapted(family), lr=0.5)
    expected = {n: w.double() for n, w in weights_of(cast(Any, None), module).items()}
    average, recorder = ExponentialMovingAverage(0.3), Recorder(weights_of)
    trainer(tmp_path, 4, [average, recorder], accumulate_grad_batches=2).fit(
        module, datamodule=Stream(accumulate=2)
    )
    for step, decay in enumerate((2 / 11, 3 / 12, 0.3, 0.3), start=1):
        for name, weight in recorder.seen[step].items():
            expected[name] = decay * expected[name] + (1 - decay) * weight.double()
    assert average.average.keys() == expected.keys()
    for name, value in average.average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, recorder.seen[4][name])


def test_applied_puts_the_average_in_and_the_weights_back() -> None:
    weights, average = Weights(2.0), ExponentialMovingAverage(0.9)
    average.average = {"w": torch.tensor([-1.0])}
    with average.applied(weights.all_trained_parameters()):
        assert weights.weight.item() == -1.0
    assert weights.weight.item() == 2.0

    def fail() -> None:
        with average.applied(weights.all_trained_parameters()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert weights.weight.item() == 2.0
    assert average.average["w"].item() == -1.0


# checkpoints


def saving(folder: Path, every_n_steps: int, keep_last: int | None = None) -> Checkpoints:
    def write_adapter(step_folder: Path) -> None:
        assert problem_of(step_folder), "the manifest comes last"
        (step_folder / "adapter.txt").write_text(step_folder.name, encoding="utf-8")

    return Checkpoints(folder, every_n_steps, keep_last, write_adapter)


@pytest.mark.parametrize(
    ("every_n_steps", "keep_last", "steps"),
    [(2, None, [2, 4, 5]), (2, 2, [4, 5]), (0, None, [5]), (1, 1, [5]), (5, None, [5])],
)
def test_checkpoints_come_on_time_and_old_ones_go(
    family: StableDiffusion, tmp_path: Path, every_n_steps: int, keep_last: int, steps: list[int]
) -> None:
    save = saving(tmp_path / "checkpoints", every_n_steps, keep_last)
    run = trainer(tmp_path, 5, [save], accumulate_grad_batches=2)
    run.fit(diffusion_module(adapted(family)), datamodule=Stream(size=1, accumulate=2))
    assert steps_on_disk(save.folder) == steps
    folders = [step_folder(save.folder, step) for step in steps]
    assert sorted(save.folder.iterdir()) == folders  # nothing else is left
    for folder in folders:
        assert problem_of(folder) is None
        assert (folder / "adapter.txt").read_text(encoding="utf-8") == folder.name


def test_a_checkpoint_holds_no_base_model(family: StableDiffusion, tmp_path: Path) -> None:
    module = diffusion_module(adapted(family), optimizer=torch.optim.AdamW)
    save = saving(tmp_path / "checkpoints", 0)
    trainer(tmp_path, 1, [ExponentialMovingAverage(0.9), save]).fit(module, datamodule=Stream())
    path, _ = newest_valid(save.folder)
    assert path is not None
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == module.all_trained_parameters().keys()
    num_trained = sum(parameter.numel() for parameter in module.all_trained_parameters().values())

    def count(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel()
        if isinstance(value, dict):
            return sum(count(item) for item in value.values())
        return sum(count(item) for item in value) if isinstance(value, list | tuple) else 0

    num_tensors = len(module.all_trained_parameters())
    # weights, average, and Adam's two moments with one counter a tensor
    assert count(content) == 4 * num_trained + num_tensors


def test_a_stopped_run_goes_on_bit_by_bit(loaded_family: StableDiffusion, tmp_path: Path) -> None:
    def run(folder: str, steps: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        family = adapted(copy.deepcopy(loaded_family), ("unet", "text_encoder"), dropout=0.2)
        module = diffusion_module(family, optimizer=torch.optim.AdamW)
        average = ExponentialMovingAverage(0.5)
        save = saving(tmp_path / folder, 2)
        trainer(tmp_path, steps, [average, save], accumulate_grad_batches=2).fit(
            module,
            datamodule=Stream(accumulate=2),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        averages = {f"average/{name}": value for name, value in average.average.items()}
        return {**weights_of(cast(Any, None), module), **averages}

    whole = run("whole", 4)
    run("parts", 2)
    checkpoint, skipped = newest_valid(tmp_path / "parts")
    assert checkpoint is not None
    assert not skipped
    resumed = run("parts", 4, checkpoint)
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    assert steps_on_disk(tmp_path / "parts") == [2, 4]


def test_a_run_goes_on_at_the_start_of_a_step_in_other_windows(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    """Three steps of one batch, then one of two, as a process counts that has fewer beside it."""

    def go(steps: int, accumulate: int, checkpoint: Path | None = None) -> list[int]:
        seen: list[int] = []

        class Seen(Callback):
            def on_train_batch_start(self, *given: Any) -> None:
                seen.append(int(given[2].sample_index[0]))

        trainer(
            tmp_path, steps, [saving(tmp_path, 3), Seen()], accumulate_grad_batches=accumulate
        ).fit(
            diffusion_module(adapted(copy.deepcopy(loaded_family))),
            datamodule=Stream(accumulate=accumulate),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        return seen

    assert go(3, 1) == [0, 2, 4]
    assert go(4, 2, newest_valid(tmp_path)[0]) == [12, 14]  # micro-batches 6 and 7, of two samples


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_never_saved(
    family: StableDiffusion, tmp_path: Path, value: float
) -> None:
    module = diffusion_module(adapted(family))
    name, parameter = list(module.all_trained_parameters().items())[3]

    def spoil(trainer: lightning.Trainer, module: DiffusionModule) -> None:
        if trainer.global_step == 2:
            parameter.data[0, 0] = value

    save = saving(tmp_path / "checkpoints", 1)
    run = trainer(tmp_path, 4, [Recorder(spoil), save])
    with pytest.raises(TrainingError, match=f"{name} is NaN or infinite at step 2; nothing was"):
        run.fit(module, datamodule=Stream())
    assert [path.name for path in save.folder.iterdir()] == ["step_0000001"]


def test_a_full_disk_costs_a_checkpoint_and_only_the_last_stops_the_run(
    family: StableDiffusion, tmp_path: Path
) -> None:
    full_at: set[str] = {"step_0000002"}

    def write_adapter(folder: Path) -> None:
        if folder.name in full_at:
            raise OSError(28, "No space left on device")

    said: list[str] = []
    save = Checkpoints(tmp_path / "checkpoints", 1, None, write_adapter, said.append)
    module = diffusion_module(adapted(family))
    trainer(tmp_path, 3, [save]).fit(module, datamodule=Stream())
    assert steps_on_disk(save.folder) == [1, 3]
    (line,) = said
    assert line.startswith("no checkpoint at step 2 ([Errno 28] No space left on device)")

    full_at.add("step_0000005")
    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, 5, [save]).fit(module, datamodule=Stream())


def test_a_later_checkpoint_that_resuming_passed_over_takes_no_place(
    family: StableDiffusion, tmp_path: Path
) -> None:
    """Step 9 is damaged, so the run went on from before it: two whole ones stay beside it."""
    save = saving(tmp_path / "checkpoints", 1, keep_last=2)
    damaged = step_folder(save.folder, 9)
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{", encoding="utf-8")
    trainer(tmp_path, 3, [save]).fit(diffusion_module(adapted(family)), datamodule=Stream())
    assert steps_on_disk(save.folder) == [2, 3, 9]
    path, skipped = newest_valid(save.folder)
    assert path is not None
    assert path.parent == step_folder(save.folder, 3)
    assert len(skipped) == 1


# signals


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself these signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("micro_batch", [2, 3])
def test_a_signal_stops_after_the_step_and_its_checkpoint(
    family: StableDiffusion, tmp_path: Path, number: int, micro_batch: int
) -> None:
    """Micro-batches 2 and 3 are step 2: whether it comes early or late in it, the step is whole."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signals, save = StopSignals(), saving(tmp_path / "checkpoints", 0)
    send = OnMicroBatch(micro_batch, lambda: os.kill(os.getpid(), number))
    run = trainer(tmp_path, 9, [signals, save, send], accumulate_grad_batches=2)
    run.fit(diffusion_module(adapted(family)), datamodule=Stream(accumulate=2))
    assert signals.received == number
    assert run.global_step == 2
    assert steps_on_disk(save.folder) == [2]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself these signals")
def test_a_second_interrupt_stops_at_once(family: StableDiffusion, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    save = saving(tmp_path / "checkpoints", 1)
    run = trainer(tmp_path, 9, [StopSignals(), save, OnMicroBatch(2, twice)])
    with pytest.raises(SystemExit) as stop:
        run.fit(diffusion_module(adapted(family)), datamodule=Stream())
    assert stop.value.code == 130
    assert steps_on_disk(save.folder) == [1, 2]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signals_are_given_back_after_an_error(family: StableDiffusion, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        raise ZeroDivisionError

    run = trainer(tmp_path, 9, [StopSignals(), OnMicroBatch(1, fail)])
    with pytest.raises(ZeroDivisionError):
        run.fit(diffusion_module(adapted(family)), datamodule=Stream())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# pictures and scores


class Drawer:
    """Stands for an evaluator: keeps what it was asked and which weights the model had then."""

    def __init__(self, module: DiffusionModule) -> None:
        self.module = module
        self.base: Evaluation | None = None
        self.drawn: list[tuple[bool, dict[str, Tensor]]] = []
        self.progress = Progress(enabled=False)
        self.prompts = [Prompt("a", 0)]
        self.sampling = SimpleNamespace(num_preview=1)
        self.training_images: list[Image.Image] = []

    def _evaluation(self, scored: bool, distance: float) -> Evaluation:
        values = {"face_distance": distance, "faceless": 1, "clip_score": None}
        ends = {"face_distance": (distance / 2, distance * 2)}
        scores = Scores(2, values, {"clip_score": "no CLIP model"}, ends) if scored else None
        return Evaluation(self.prompts, [Image.new("RGB", (8, 8))], scores)

    def draw_base(self) -> Evaluation:
        self.base = self._evaluation(True, 1.25)
        return self.base

    def draw(self, preview: bool = False) -> Evaluation:
        self.drawn.append((preview, weights_of(cast(Any, None), self.module)))
        return self._evaluation(not preview, 1.0 / len(self.drawn))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pictures_and_scores_come_on_time(family: StableDiffusion, tmp_path: Path) -> None:
    module = diffusion_module(adapted(family))
    drawer = Drawer(module)
    evaluate = Evaluate(
        cast(Evaluator, drawer), pictures_every_n_steps=2, scores_every_n_steps=3, folder=tmp_path
    )
    run = trainer(tmp_path, 5, [evaluate], accumulate_grad_batches=2)
    run.fit(module, datamodule=Stream(size=1, accumulate=2))
    # pictures at 2 and 4, scores at 3, both at the end
    assert [preview for preview, _ in drawer.drawn] == [True, False, True, False]
    states = [f"step_000000{step}" for step in (2, 3, 4, 5)]
    written = sorted(path.name for path in (tmp_path / "samples").iterdir())
    pages = [f"{state}{ending}" for state in states for ending in ("", ".png")]
    assert written == ["base", "prompts.json", *pages]
    rest = {"faceless": 1, "clip_score": None, "clip_score_reason": "no CLIP model"}

    def distance(value: float) -> dict[str, float]:
        ends = {"face_distance_low": value / 2, "face_distance_high": value * 2}
        return {"face_distance": value, **ends}

    expected = [
        (0, "base", {**distance(1.25), **rest}),
        (3, "eval", {**distance(0.5), **rest}),
        (5, "eval", {**distance(0.25), **rest}),
    ]
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": step, **{f"{prefix}/{name}": value for name, value in values.items()}}
        for step, prefix, values in expected
    ]
    assert evaluate.last is not None
    assert evaluate.last.scores is not None
    assert evaluate.last.scores.value("face_distance") == 0.25


def test_the_average_is_drawn_and_the_weights_train_on(
    family: StableDiffusion, tmp_path: Path
) -> None:
    module = diffusion_module(adapted(family), lr=0.5)
    drawer, average, recorder = (
        Drawer(module),
        ExponentialMovingAverage(0.9),
        Recorder(weights_of),
    )
    averages = Recorder(lambda *_: {name: w.clone() for name, w in average.average.items()})
    after = Recorder(weights_of)
    evaluate = Evaluate(
        cast(Evaluator, drawer),
        pictures_every_n_steps=1,
        scores_every_n_steps=0,
        folder=tmp_path,
        average=average,
    )
    run = trainer(tmp_path, 2, [average, recorder, averages, evaluate, after])
    run.fit(module, datamodule=Stream())
    for step, (_, drawn) in enumerate(drawer.drawn, start=1):
        for name, weight in drawn.items():
            assert torch.equal(weight, averages.seen[step][name])
            assert not torch.equal(weight, recorder.seen[step][name])
            assert torch.equal(after.seen[step][name], recorder.seen[step][name])


def test_a_resumed_run_does_not_note_the_base_twice(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> None:
        module = diffusion_module(adapted(copy.deepcopy(loaded_family)))
        evaluate = Evaluate(
            cast(Evaluator, Drawer(module)),
            pictures_every_n_steps=0,
            scores_every_n_steps=0,
            folder=tmp_path,
        )
        save = saving(tmp_path / "checkpoints", 1)
        path = None if checkpoint is None else str(checkpoint)
        trainer(tmp_path, steps, [save, evaluate]).fit(
            module, datamodule=Stream(), ckpt_path=path, weights_only=True
        )

    run(1)
    run(2, newest_valid(tmp_path / "checkpoints")[0])
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def best_adapter(folder: Path, module: DiffusionModule) -> BestAdapter:
    """Writes the first trained weight's first number, to see whose adapter was kept."""

    def write(target: Path) -> None:
        weight = next(iter(module.all_trained_parameters().values()))
        (target / "weight.txt").write_text(str(weight.detach().flatten()[0].item()), "utf-8")

    return BestAdapter(folder, Rule("face_distance", 1.0), write)


class Listed(Drawer):
    """Gives the scored pictures these face distances, one after the other."""

    def __init__(self, module: DiffusionModule, distances: list[float]) -> None:
        super().__init__(module)
        self.distances = iter(distances)

    def draw(self, preview: bool = False) -> Evaluation:
        return self._evaluation(True, next(self.distances))


def test_looking_changes_nothing_of_the_training(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    """Weights are the same, bit by bit, with and without scores and validation losses."""

    def trained(looks: bool) -> dict[str, Tensor]:
        module = diffusion_module(adapted(copy.deepcopy(loaded_family), dropout=0.2))
        ids = module.family.tokenize(["a", "b"]).ids
        fixed = FixedSet([torch.zeros(8, 8, 8), torch.ones(8, 8, 8)], ids, torch.zeros(2, 6))
        evaluate = Evaluate(
            cast(Evaluator, Drawer(module)),
            pictures_every_n_steps=0,
            scores_every_n_steps=1,
            folder=tmp_path / str(looks),
            validation=ValidationLoss(module.family, module.objective, fixed, fixed),
        )
        trainer(tmp_path, 3, [evaluate] if looks else []).fit(module, datamodule=Stream())
        return {name: p.detach().clone() for name, p in module.all_trained_parameters().items()}

    alone, watched = trained(False), trained(True)
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    scored = [line for line in lines(tmp_path / "True" / "metrics.jsonl") if "val/loss" in line]
    assert [line["step"] for line in scored] == [0, 1, 2, 3]
    assert len({line["val/loss"] for line in scored}) == 4
    assert {line["val/gap"] for line in scored} == {0.0}  # both sets are the same


def test_the_best_adapter_is_kept_as_it_was(family: StableDiffusion, tmp_path: Path) -> None:
    module = diffusion_module(adapted(family))
    recorder = Recorder(lambda _, m: next(iter(m.all_trained_parameters().values()))[0, 0].item())
    best = best_adapter(tmp_path, module)
    evaluate = Evaluate(
        cast(Evaluator, Listed(module, [0.9, 0.4, 0.4, 0.7])),
        pictures_every_n_steps=0,
        scores_every_n_steps=1,
        folder=tmp_path,
        best=best,
    )
    trainer(tmp_path, 4, [recorder, evaluate]).fit(module, datamodule=Stream())
    assert best.best is not None
    assert best.best.step == 2  # the first of two that are alike
    kept = float((tmp_path / "lora" / "weight.txt").read_text("utf-8"))
    assert kept == recorder.seen[2]
    assert read_best(tmp_path) == best.best


def test_a_run_that_gets_no_better_stops_and_is_saved(
    family: StableDiffusion, tmp_path: Path
) -> None:
    module = diffusion_module(adapted(family))
    evaluate = Evaluate(
        cast(Evaluator, Listed(module, [0.9, 0.4, 0.5, 0.6, 0.1])),
        pictures_every_n_steps=0,
        scores_every_n_steps=1,
        folder=tmp_path,
        best=best_adapter(tmp_path, module),
        stop_patience=2,
    )
    save = saving(tmp_path / "checkpoints", 0)
    run = trainer(tmp_path, 9, [save, evaluate])
    run.fit(module, datamodule=Stream())
    assert run.global_step == 4  # two scores after step 2 that are not better
    assert steps_on_disk(tmp_path / "checkpoints") == [4]
    assert problem_of(step_folder(tmp_path / "checkpoints", 4)) is None


def test_a_run_stops_that_others_are_far_ahead_of(family: StableDiffusion, tmp_path: Path) -> None:
    module = diffusion_module(adapted(family))
    asked: list[tuple[int, float | int | None]] = []

    def is_hopeless(step: int, scores: Scores) -> bool:
        asked.append((step, scores.value("face_distance")))
        return step == 3

    evaluate = Evaluate(
        cast(Evaluator, Listed(module, [0.9, 0.4, 0.5, 0.6])),
        pictures_every_n_steps=0,
        scores_every_n_steps=1,
        folder=tmp_path,
        pruning=Pruning(is_hopeless, stopped_at=None),
    )
    run = trainer(tmp_path, 9, [evaluate])
    run.fit(module, datamodule=Stream())
    assert (run.global_step, asked) == (3, [(1, 0.9), (2, 0.4), (3, 0.5)])
    assert evaluate.stop_reason == "other trials of the search had better scores by this step"


@pytest.mark.parametrize(("saved", "steps"), [(3, 3), (2, 3), (4, 4)])
def test_a_run_that_was_killed_once_stopped_stops_there_again(
    family: StableDiffusion, tmp_path: Path, saved: int, steps: int
) -> None:
    """Stopped at step 3: it trains up to there from an older checkpoint, and not one step more."""
    module = diffusion_module(adapted(family))
    trainer(tmp_path, saved, [saving(tmp_path / "checkpoints", 1)]).fit(module, datamodule=Stream())
    evaluate = Evaluate(
        cast(Evaluator, Listed(module, [0.5, 0.5])),
        pictures_every_n_steps=0,
        scores_every_n_steps=3,
        folder=tmp_path,
        pruning=Pruning(lambda step, scores: step >= 3, stopped_at=3),
    )
    run = trainer(tmp_path, 9, [evaluate])
    path = step_folder(tmp_path / "checkpoints", saved) / "trainer.ckpt"
    run.fit(module, datamodule=Stream(), ckpt_path=str(path), weights_only=True)
    assert run.global_step == steps
    assert evaluate.stop_reason == "other trials of the search had better scores by this step"


class Cramped(Drawer):
    """Runs out of memory as a GPU beside a training would, at these calls (0: the base)."""

    def __init__(self, module: DiffusionModule, fails_at: set[int]) -> None:
        super().__init__(module)
        self.fails_at = fails_at
        self.num_calls = 0

    def draw_base(self) -> Evaluation:
        if self.base is None and 0 in self.fails_at:
            self.fails_at.remove(0)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().draw_base()

    def draw(self, preview: bool = False) -> Evaluation:
        self.num_calls += 1
        if self.num_calls in self.fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().draw(preview)


def test_no_memory_for_pictures_costs_them_and_nothing_of_the_training(
    loaded_family: StableDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(fails_at: set[int] | None) -> dict[str, Tensor]:
        module = diffusion_module(adapted(copy.deepcopy(loaded_family), dropout=0.2), lr=0.5)
        average = ExponentialMovingAverage(0.5)
        evaluate = Evaluate(
            cast(Evaluator, Cramped(module, fails_at or set())),
            pictures_every_n_steps=0,
            scores_every_n_steps=1,
            folder=tmp_path / "run",
            average=average,
        )
        callbacks = [average] if fails_at is None else [average, evaluate]
        run = trainer(tmp_path, 4, callbacks)
        run.fit(module, datamodule=Stream())
        assert run.global_step == 4
        assert evaluate.last is None  # of no step before the last one
        averages = {f"average/{name}": value for name, value in average.average.items()}
        return {**weights_of(cast(Any, None), module), **averages}

    alone = trained(None)
    capsys.readouterr()
    cramped = trained({0, 2, 3})  # the base in step 1, drawings in steps 3 and 4
    said = capsys.readouterr().out.splitlines()
    warned = [line for line in said if line.startswith("warning")]
    (drawn,) = [line for line in said if line not in warned]
    assert drawn.startswith("step 2: face 1.00 (base 1.25), ")
    assert drawn.endswith("step_0000002.png")
    assert cramped.keys() == alone.keys()
    assert all(torch.equal(cramped[name], value) for name, value in alone.items())
    words = "warning: step {}: not enough memory to draw one picture during training; no pictures"
    assert all(
        line.startswith(words.format(step)) for step, line in zip((1, 3, 4), warned, strict=True)
    )
    assert "trainer.gradient_checkpointing=true or a smaller data.batch_size" in warned[0]
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == [0, 2]
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == ["base", "prompts.json", "step_0000002", "step_0000002.png"]


def test_a_step_keeps_its_preview_and_the_best_one_all_its_pictures(
    family: StableDiffusion, tmp_path: Path
) -> None:
    class Three(Drawer):
        """Three prompts; of the scored steps 2, 4 and 6 the second is the best."""

        def _evaluation(self, scored: bool, distance: float) -> Evaluation:
            order = {1 / 2: 0.75, 1 / 4: 0.25, 1 / 6: 0.5}
            one = super()._evaluation(scored, order.get(distance, distance))
            return Evaluation(self.prompts, one.images * 3, one.scores)

    module = diffusion_module(adapted(family))
    drawer = Three(module)
    drawer.prompts = [Prompt(text, 0) for text in "abc"]
    drawer.training_images = [Image.new("RGB", (8, 8), "red")]
    evaluate = Evaluate(
        cast(Evaluator, drawer),
        pictures_every_n_steps=1,
        scores_every_n_steps=2,
        folder=tmp_path,
        best=best_adapter(tmp_path, module),
    )
    trainer(tmp_path, 6, [evaluate]).fit(module, datamodule=Stream())
    counts = {
        step: len(list((tmp_path / "samples" / f"step_{step:07d}").glob("*.png")))
        for step in range(1, 7)
    }
    assert counts == {1: 1, 2: 3, 3: 1, 4: 3, 5: 1, 6: 1}  # 2 was the best when it was drawn
    with Image.open(tmp_path / "samples" / "step_0000001.png") as grid:
        assert (255, 0, 0) in [colour for _, colour in grid.convert("RGB").getcolors(10_000) or []]


def test_other_errors_while_drawing_are_said_once_and_end_no_run(
    family: StableDiffusion, tmp_path: Path
) -> None:
    class Broken(Drawer):
        def draw(self, preview: bool = False) -> Evaluation:
            raise RuntimeError("shapes do not fit")

    module = diffusion_module(adapted(family))
    drawer = Broken(module)
    evaluate = Evaluate(
        cast(Evaluator, drawer),
        pictures_every_n_steps=1,
        scores_every_n_steps=0,
        folder=tmp_path,
    )
    said: list[object] = []
    drawer.progress.print = said.append  # type: ignore[method-assign]
    run = trainer(tmp_path, 3, [evaluate])
    run.fit(module, datamodule=Stream())
    assert run.global_step == 3
    reason = "RuntimeError: shapes do not fit"
    assert said == [f"warning: pictures and scores: {reason}; the run goes on without it"]
    assert drawer.progress.failing == {"pictures and scores": reason}


def test_a_failure_beside_the_step_saves_it(family: StableDiffusion, tmp_path: Path) -> None:
    def fail(trainer: lightning.Trainer, module: DiffusionModule) -> None:
        if trainer.global_step == 3:
            raise ZeroDivisionError

    save = saving(tmp_path / "checkpoints", 2)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, 9, [save, Recorder(fail)]).fit(
            diffusion_module(adapted(family)), datamodule=Stream()
        )
    assert steps_on_disk(save.folder) == [2, 3]


def test_a_failure_within_a_step_saves_the_one_before(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    """And the run that goes on from there has the weights of one that never failed."""

    def fail() -> None:
        raise ZeroDivisionError

    def run(folder: str, *more: Callback, checkpoint: Path | None = None) -> dict[str, Tensor]:
        module = diffusion_module(
            adapted(copy.deepcopy(loaded_family), dropout=0.2), optimizer=torch.optim.AdamW
        )
        callbacks = [saving(tmp_path / folder, 0), *more]
        trainer(tmp_path, 4, callbacks, accumulate_grad_batches=2).fit(
            module,
            datamodule=Stream(accumulate=2),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        return weights_of(cast(Any, None), module)

    whole = run("whole")
    with pytest.raises(ZeroDivisionError):
        run("parts", OnMicroBatch(5, fail))  # the second of step 3
    path, _ = newest_valid(tmp_path / "parts")
    assert path is not None
    assert path.parent.name == "step_0000002"
    resumed = run("parts", checkpoint=path)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_weights_that_are_half_updated_are_not_saved(
    family: StableDiffusion, tmp_path: Path
) -> None:
    class Failing(torch.optim.SGD):
        count = 0

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            Failing.count += 1
            if Failing.count == 3:
                raise ZeroDivisionError
            super().step()
            return loss

    save = saving(tmp_path / "checkpoints", 0)
    module = diffusion_module(adapted(family), optimizer=Failing)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, 9, [save]).fit(module, datamodule=Stream())
    assert steps_on_disk(save.folder) == []


def test_tensorboard_shows_every_score_beside_the_bases(
    family: StableDiffusion, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module = diffusion_module(adapted(family))
    evaluate = Evaluate(
        cast(Evaluator, Drawer(module)),
        pictures_every_n_steps=1,
        scores_every_n_steps=2,
        folder=tmp_path,
    )
    logger = RunTensorBoard(tmp_path, Progress(enabled=False))
    run = trainer(tmp_path, 4, [evaluate], logger=logger, log_every_n_steps=100)
    run.fit(module, datamodule=Stream())
    board, base = (
        EventAccumulator(str(tmp_path / folder), size_guidance={"images": 0}).Reload()
        for folder in ("tensorboard", "tensorboard/base")
    )

    def curve(name: str, of: EventAccumulator = board) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in of.Scalars(name)]

    # pictures 1 and 3 are previews, 2 and 4 are scored
    assert curve("scores/face_distance") == [(2, 0.5), (4, 0.25)]
    assert curve("scores/faceless") == [(2, 1.0), (4, 1.0)]
    assert curve("scores_intervals/face_distance_high") == [(2, 1.0), (4, 0.5)]
    # a flat line in the same chart, of the run beside it
    assert curve("scores/face_distance", base) == [(0, 1.25), (2, 1.25), (4, 1.25)]
    assert "scores/clip_score" not in board.Tags()["scalars"]
    assert [image.step for image in board.Images("samples")] == [1, 2, 3, 4]


# speed and memory


def test_throughput_by_a_clock_of_its_own(
    family: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each micro-batch takes 0.5 s; what comes between, drawing say, takes 100 s."""
    now = iter([0.0, 0.5, 100.0, 100.5, 200.0, 200.5, 300.0, 300.5, 400.0, 400.5, 500.0, 500.5])
    monkeypatch.setattr(speed_module.time, "perf_counter", lambda: next(now))
    progress = Progress(enabled=False)
    speed = Throughput(12, progress=progress, folder=tmp_path, log_every_n_steps=2)
    bars = Recorder(lambda *_: [(t.description, t.completed, t.total) for t in progress.tasks()])
    module = diffusion_module(adapted(family, ("unet", "text_encoder")), lr=0.08)
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(
        tmp_path, 3, [speed, bars], accumulate_grad_batches=2, logger=logger, log_every_n_steps=2
    )
    run.fit(module, datamodule=Stream(size=3, accumulate=2))

    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["step"] == 2
    assert line["train/images_per_s"] == 2 * 6 / (4 * 0.5)
    assert line["train/epoch"] == 1.0  # 12 of 12 pictures
    assert line["train/lr_unet"] == pytest.approx(0.08 / 4)  # of the step that comes
    assert line["train/lr_text_encoder"] == pytest.approx(0.08 / 4)
    assert 0 < line["train/loss"] < 100
    assert line["train/peak_memory_mib"] > 50
    assert bars.seen == {step: [("Training", step, 3)] for step in (1, 2, 3)}
    assert progress.tasks() == []  # the bar is taken away at the end
    logged = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    for name in ("train/images_per_s", "train/lr_unet", "train/grad_norm", "train/loss"):
        assert name in logged.splitlines()[0]


def test_the_bar_of_a_resumed_run_begins_where_it_stands(
    loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> Any:
        progress = Progress(enabled=False)
        speed = Throughput(4, progress, tmp_path, 1)
        begun: list[Any] = []
        look = OnMicroBatch(
            2, lambda: begun.extend((t.completed, t.total) for t in progress.tasks())
        )
        trainer(tmp_path, steps, [speed, saving(tmp_path / "checkpoints", 1), look]).fit(
            diffusion_module(adapted(copy.deepcopy(loaded_family))),
            datamodule=Stream(),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        return begun

    run(2)
    assert run(4, newest_valid(tmp_path / "checkpoints")[0]) == [(2, 4)]
    found = [line["step"] for line in lines(tmp_path / "metrics.jsonl")]
    assert found == [1, 2, 3, 4]


def test_peak_memory_counts_what_was_in_use_before() -> None:
    now = psutil.Process().memory_info().rss / 2**20
    before = peak_memory_mib(torch.device("cpu"))
    assert before >= 0.99 * now
    # pages of its own: a tensor may get memory that an earlier test gave back to the allocator
    block = mmap.mmap(-1, int((before - now + 64) * 2**20))
    for start in range(0, len(block), mmap.PAGESIZE):
        block[start] = 1
    with_block = peak_memory_mib(torch.device("cpu"))
    assert with_block >= before + 32
    block.close()
    assert peak_memory_mib(torch.device("cpu")) >= with_block
