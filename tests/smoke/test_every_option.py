"""Every option on the disk trains, stops, resumes and exports through ``train.py``, with its bits.

A test is a run with one option of each group, all different from those of the other tests, on the
embedded base: undisturbed, and stopped after half its steps. A new file in ``conf/`` is taken by
itself; what it must have beside it stands in ``BESIDE``. Settings that have no file: ``VARIANTS``.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdlora.runtime.places import ASSETS, CONF
from sdlora.training.callbacks.stopping import StopSignals
from sdlora.training.optimizers import CUDA_ONLY, PACKAGES
from tests.places import REPOSITORY
from tests.smoke.conftest import TrainHere

pytestmark = pytest.mark.slow

LAST = 6
STOP = 3

Option = tuple[str, ...]

RESULTS = ("lora", "last", "pipeline", f"checkpoints/step_{LAST:07d}", "samples")
NOT_SCORED = ("evaluation=none",)

ON_DISK = ("optimizer", "lora", "objective", "scheduler", "logger")

WORD = ("data.captions.prefix='zwk, '", "sampling.prompt_prefix='zwk, '")
BESIDE: dict[str, Option] = {
    "optimizer=schedule_free_adamw": ("scheduler=constant_with_warmup", "trainer.ema_decay=null"),
    "lora=full": ("optim.unet_lr=1e-5",),
    "lora=pivotal": WORD,
    "lora=textual_inversion": WORD,
}
"""What an option needs; of two options that set one key, each is tried in a run of its own."""

OF_FLOW = {"objective=bell"}
"""Options that the embedded base refuses; ``test_flow.py`` runs them."""

VARIANTS: dict[str, list[Option]] = {
    "optimizer": [("optim.lora_plus_ratio=16", "lora=attention")],
    "lora": [
        ("lora=conv", "lora.use_dora=true", "lora.text_encoder.method=frozen"),
        ("lora.use_rslora=true", "lora.dropout=0.1", "lora.rank_dropout=0.1"),
        ("lora.init=gaussian", "lora.unet.r=4", "lora.text_encoder.alpha=2"),
        ("lora.init=pissa", "lora.unet.alpha_pattern={attn1: 2}"),
        ("lora.init=olora", "lora.unet.rank_pattern={mid_block: 2}"),
        ("lora.type=loha", "lora=conv", "export.dtype=fp16"),
        ("lora.type=lokr", "lora.decompose_factor=8", "lora.unet.rank_pattern={mid_block: 2}"),
        ("lora.type=oft", "lora.oft_block_size=16"),
    ],
    "objective": [
        ("objective.error.name=huber", "objective.noise.offset=0.1"),
        ("objective.error.name=smooth_l1", "objective.error.schedule=exponential"),
        ("objective.error.name=huber", "objective.error.schedule=constant"),
        ("objective.noise.pyramid_iterations=3", "objective.timesteps.name=logit_normal"),
        ("objective.prediction_type=sample", "objective.noise.perturbation=0.1"),
        ("objective.timesteps.name=bins", "objective.timesteps.bin_weights=[1,2]"),
    ],
    "scheduler": [("scheduler=cosine_annealing", "scheduler.per=epoch")],
    "trainer": [
        ("trainer.ema_decay=0.9",),
        ("trainer.accumulate_grad_batches=2",),
        ("trainer.gradient_checkpointing=true", "trainer.gradient_clip_val=null"),
    ],
    "data": [
        ("data.flip=true", "data.captions.tags=true", "data.captions.shuffle=true"),
        ("data.buckets.mode=auto", "data.buckets.min_side=48", "data.captions.dropout=0.3"),
        ("data.crop=random", "data.cache=off", "data.val_fraction=0.25"),
    ],
    "evaluation": [("evaluation=default", "evaluation.every_n_steps=2")],
}


def keys(option: Option) -> set[str]:
    return {item.partition("=")[0] for item in option}


def options() -> dict[str, list[Option]]:
    """The options of each group, those with a file first."""
    found: dict[str, list[Option]] = {}
    for group in ON_DISK:
        files = [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]
        files = [name for name in files if name not in OF_FLOW]
        found[group] = [(name, *BESIDE.get(name, ())) for name in files]
    return {group: found.get(group, []) + VARIANTS.get(group, []) for group in found | VARIANTS}


def combinations() -> Iterator[Option]:
    """Runs that try each option once, of each group one that sets no key of the others'.

    What cannot run here has a run of its own, so that nothing else is skipped with it.
    """
    left = options()
    for waiting in left.values():
        for option in [option for option in waiting if missing(option)]:
            waiting.remove(option)
            yield option
    while any(left.values()):
        chosen: Option = ()
        for waiting in left.values():
            for option in waiting:
                if not keys(option) & keys(chosen):
                    chosen += option
                    waiting.remove(option)
                    break
        yield chosen


def missing(option: Option) -> str | None:
    """What an option needs that is not here."""
    name = option[0].removeprefix("optimizer=")
    if name in PACKAGES and find_spec(PACKAGES[name].replace("-", "_")) is None:
        return f"{name}: {PACKAGES[name]} is not installed"
    if name == "logger=wandb" and find_spec("wandb") is None:
        return "wandb is not installed"
    if name in CUDA_ONLY and not torch.cuda.is_available():
        return f"{name}: needs a GPU"
    return None


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Option:
    photos = tmp_path_factory.mktemp("photos")
    for path in sorted((REPOSITORY / "examples" / "portraits").glob("portrait_0[1-4].*")):
        shutil.copy(path, photos)
    return (
        f"data.root={photos}",
        "data.batch_size=2",
        f"trainer.max_steps={LAST}",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=0",
        "sampling.num_steps=1",
        "sampling.num_prompts=2",
        "sampling.every_n_steps=4",
        "scheduler.warmup_steps=2",
    )


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline  # seconds, which other tests need not wait

    return StableDiffusionPipeline.from_pretrained(ASSETS / "tiny-sd", safety_checker=None)


class HalfWay(StopSignals):
    """Is hit by SIGTERM in the middle of the run."""

    def on_train_batch_start(self, trainer: Any, *given: Any) -> None:
        super().on_train_batch_start(trainer, *given)
        if trainer.global_step == STOP - 1 and self.received is None:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("chosen", list(combinations()), ids=" ".join)
def test_every_option_trains_stops_resumes_and_exports(
    chosen: Option,
    settings: Option,
    pipeline: Any,
    train_here: TrainHere,
    train_only: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if reason := missing(chosen):
        pytest.skip(reason)
    given = chosen if any(item.startswith("evaluation=") for item in chosen) else NOT_SCORED
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train_here(*settings, *chosen, *given, f"run_dir={whole}")
    with monkeypatch.context() as patched:
        patched.setattr("sdlora.commands.train.fit.StopSignals", HalfWay)
        with pytest.raises(SystemExit) as stop:
            train_only(*settings, *chosen, *given, f"run_dir={parted}")
    assert stop.value.code == 143
    train_only(f"resume={parted}")  # its files are those of the other run, which are proved
    assert f"continuing from step {STOP} of {LAST}" in capsys.readouterr().out
    assert_same_files(parted, whole)
    assert_loads(whole, pipeline)


def assert_same_files(run: Path, whole: Path) -> None:
    """The exported files and the state of the last step are there, with the same bits."""
    found, expected = (
        {path.relative_to(each).as_posix() for name in RESULTS for path in (each / name).rglob("*")}
        for each in (run, whole)
    )
    assert found == expected
    compared = [name for name in sorted(expected) if name.endswith(".safetensors")]
    assert len(compared) >= 2
    for name in compared:
        ours, theirs = load_file(run / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
        assert all(torch.isfinite(tensor).all() for tensor in theirs.values()), name


def assert_loads(run: Path, pipeline: Any) -> None:
    """diffusers loads what the run exported."""
    whole, lora = run / "pipeline", run / "lora"
    words = list((lora / "embeddings").glob("*.safetensors"))
    files = [*whole.glob("model_index.json"), *lora.glob("*.safetensors"), *words]
    assert files, "nothing is exported"
    if whole.is_dir():
        type(pipeline).from_pretrained(whole, safety_checker=None)
    for word in words:
        name = f"{run.parent.name}_{word.stem}"
        pipeline.load_textual_inversion(word, token=name)
        assert name in pipeline.tokenizer.get_added_vocab()
    for file in lora.glob("pytorch_lora_weights.safetensors"):  # of kohya's, not every option's
        pipeline.load_lora_weights(file)
        assert pipeline.get_list_adapters()
        pipeline.unload_lora_weights()
