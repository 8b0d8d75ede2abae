"""Bad input stops with one message that names key, value and remedy, before any weight is read.

The base model's weights are garbage here: whoever opened them would fail with another message.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

MessageOf = Callable[..., str]

KEYS = [
    (
        "lora.rr=16",
        "lora.rr=16: unknown key; did you mean lora.r? lora has type, relative_rate, r, alpha",
    ),
    (
        "+lora.rr=16",
        "lora.rr=16: unknown key; did you mean lora.r? lora has type, relative_rate, r, alpha",
    ),
    ("lora.unet.rr=4", "lora.unet.rr=4: unknown key; did you mean lora.unet.r?"),
    ("lora.parts.unet.r=4", "lora.parts.unet.r=4: unknown key; did you mean lora.unet.r?"),
    ("+data.captions.r=4", "data.captions.r=4: unknown key; did you mean data.captions."),
    ("lora.unte.r=4", "lora.unte: no such part; did you mean lora.unet? Stable Diffusion 1.x or"),
    ("loraa.r=16", "loraa.r=16: unknown key; did you mean lora.r?"),
    ("lr=1e-4", "lr=1e-4: unknown key; did you mean optim.unet_lr?"),
    ("rank=16", "rank=16: unknown key; did you mean lora.r?"),
    ("trainer.epochs=10", "trainer.epochs=10: unknown key; did you mean trainer.max_epochs?"),
    ("+lora.unet.rank=4", "lora.unet.rank=4: unknown key; did you mean lora.unet.r?"),
    ("lr_scheduler=cosine", "lr_scheduler=cosine: unknown key; did you mean scheduler?"),
    ("+save_every_n_epochs=1", "save_every_n_epochs=1: unknown key; did you mean checkpoint.every"),
    ("optimzer=prodigy", "optimzer=prodigy: unknown key; did you mean optimizer?"),
    ("foo=1", "foo=1: unknown key; --cfg job lists all keys"),
    ("+foo=1", "foo=1: unknown key; --cfg job lists all keys"),
    ("hydra.run.dirr=x", "hydra.run.dirr=x: unknown key; --cfg hydra"),
    ("~lora.r", "lora.r: is needed and cannot be removed"),
    ("lora.r", "lora.r: is not KEY=VALUE; write lora.r=VALUE"),
    ("lora.r=[1", "lora.r=[1: cannot be read as KEY=VALUE; close every bracket"),
]
TYPES = [
    ("lora.r=abc", "lora.r=abc: must be a whole number"),
    ("lora.r=1.5", "lora.r=1.5: must be a whole number"),
    ("lora.r=", "lora.r=: must be a whole number"),
    ("lora.r=null", "lora.r=null: must be a whole number"),
    ("lora.alpha=much", "lora.alpha=much: must be a number"),
    ("data.flip=maybe", "data.flip=maybe: must be true or false"),
    ("sampling.seeds=3", "sampling.seeds=3: must be a list"),
    ("lora.unet.r=abc", "lora.unet.r=abc: must be a whole number"),
    ("lora.unet=4", "lora.unet=4: is a group of keys, not one value; set lora.unet.KEY=VALUE"),
    ("lora.r=${foo}", "lora.r=${foo}: Interpolation key 'foo' not found; write a value"),
]
ROOTS = [
    ("data.roots=[{pth: x}]", "data.roots: pth: unknown key; did you mean path? each has path, "),
    ("data.roots=[{path: x, repeats: two}]", "data.roots: repeats=two: must be a whole number"),
    ("data.roots=[x]", "data.roots[0]=x: must be keys and values, such as {path: ...}"),
]
RANGES = [
    ("lora.r=0", "lora.r=0: must be a whole number >= 1"),
    ("lora.unet.r=0", "lora.unet.r=0: must be a whole number >= 1"),
    ("lora.alpha=nan", "lora.alpha=nan: must be a finite number > 0"),
    ("optim.unet_lr=1e400", "optim.unet_lr=inf: must be a finite number > 0"),
    ("lora.dropout=1", "lora.dropout=1.0: must be a number in [0, 1)"),
    ("seed=-1", "seed=-1: must be a whole number in [0, 2**63)"),
    ("data.resolution=63", "data.resolution=63: must be a multiple of 8 between 8 and 4096; the "),
    ("sampling.seeds=[]", "sampling.seeds=[]: give at least one seed"),
    ("export.name=a/b", "export.name=a/b: becomes a file name"),
]
NAMES = [
    ("optimizer=adamq", "optimizer=adamq: unknown; did you mean adamw? choices: adafactor, "),
    ("model=sdx", "model=sdx: unknown; did you mean sdxl? choices: ddpm, flux2_klein, kolors, "),
    ("lora=none", "lora=none: trains all weights of the denoiser, and is called lora=full"),
    ("experiment=tinybase", "experiment=tinybase: unknown; did you mean tiny_base?"),
    ("optim.name=adamq", "optim.name=adamq: unknown; did you mean adamw? choices: adafactor, "),
    ("optim.options.lrr=1", "optim.options.lrr=1: unknown; choices: amsgrad, betas, "),
    ("+optim.options.lrr=1", "optim.options.lrr=1: unknown; choices: amsgrad, betas, "),
    ("optim.options.ep=1e-6", "optim.options.ep=1e-06: unknown; did you mean eps?"),
    ("optim.options.betas=3", "optim.options={'weight_decay': 0.01, 'betas': 3}: adamw does not "),
    ("optim.options.weight_decay=-1", "optim.options={'weight_decay': -1}: adamw does not accept "),
    ("trainer.precision=bf17", "trainer.precision=bf17: unknown; did you mean bf16? choices: fp32"),
    ("scheduler.name=cosin", "scheduler.name=cosin: unknown; did you mean cosine?"),
    ("sampling.sampler=ddimm", "sampling.sampler=ddimm: unknown; did you mean 'ddim'?"),
    ("evaluation.clip.name=clp", "evaluation.clip.name=clp: unknown; did you mean clip?"),
    ("evaluation.face.options.thresh=1", "evaluation.face.options.thresh=1: unknown; did you mean"),
    (
        "objective.zero_terminal_snr=true",
        "objective.zero_terminal_snr=True: this model predicts ep",
    ),
    ("lora.unet.targets=[to_w]", "lora.unet.targets=to_w: no such layer in UNet2DConditionModel"),
    ("lora.unet.rank_pattern={atn1:2}", "lora.unet.rank_pattern=atn1: matches none of the 32 adap"),
    (
        "model.family=sx",
        "model.family=sx: unknown; did you mean sdxl? choices: ddpm, flux2_klein, kolors, sd",
    ),
]
PATHS = [
    ("data.root=missing", "data.root=missing: does not exist; give the folder"),
    ("sampling.prompts=missing.txt", "sampling.prompts=missing.txt: cannot be read (No such file"),
    ("evaluation.references=missing", "evaluation.references=missing: no such folder; name one"),
    ("model.path=missing", "model.path=missing: no such folder; give a folder in the diffusers "),
    ("resume=missing", "resume=missing: not a run folder"),
    ("lora.init_from=missing", "lora.init_from=missing: no such file; name a .safetensors file"),
]


@pytest.mark.parametrize(("override", "message"), KEYS + TYPES + ROOTS + RANGES + NAMES + PATHS)
def test_stops_with_key_value_and_remedy(
    override: str, message: str, message_of: MessageOf, garbage_base: Path, tmp_path: Path
) -> None:
    told = message_of(f"model.path={garbage_base}", f"hydra.run.dir={tmp_path}", override)
    assert told.startswith(message)
    assert "\n" not in told


def test_wrong_key_in_a_file(message_of: MessageOf, garbage_base: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    text = "defaults:\n  - attention\nrr: 3\n"
    (tmp_path / "lora" / "mine.yaml").write_text(text, "utf-8")
    told = message_of(f"--config-dir={tmp_path}", "lora=mine", f"model.path={garbage_base}")
    assert told.startswith("lora.rr=3 in lora/mine.yaml: unknown key; did you mean lora.r?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [attention]\nr: many\n", "lora.r=many in lora/mine.yaml: must be a whole"),
        (
            "defaults: [attention]\nunet: {rr: 3}\n",
            "lora.unet.rr=3 in lora/mine.yaml: unknown key; did you mean lora.unet.r?",
        ),
        (
            "defaults: [attention]\nunet: {r: many}\n",
            "lora.unet.r=many in lora/mine.yaml: must be a whole",
        ),
        ("r: 8\n", "lora.type: has no value; set it with lora.type=VALUE"),
        ("r: [3\n", "a config file cannot be read: while parsing"),
    ],
)
def test_wrong_value_in_a_file(
    text: str, message: str, message_of: MessageOf, tmp_path: Path
) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "mine.yaml").write_text(text, "utf-8")
    told = message_of("--config-dir", str(tmp_path), "lora=mine", f"hydra.run.dir={tmp_path}/run")
    assert told.startswith(message)


def test_garbage_weights_are_read_last_and_named(
    message_of: MessageOf, garbage_base: Path, pictures: Path, tmp_path: Path
) -> None:
    told = message_of(
        f"model.path={garbage_base}",
        f"data.root={pictures}",
        f"hydra.run.dir={tmp_path}",
        "evaluation=none",
    )
    assert str(garbage_base) in told
    assert not (tmp_path / "checkpoints").exists()


def test_a_used_run_folder_is_not_written_over(
    message_of: MessageOf, garbage_base: Path, pictures: Path, tmp_path: Path
) -> None:
    step = tmp_path / "checkpoints" / "step_0000002"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}", "utf-8")
    told = message_of(
        f"model.path={garbage_base}", f"data.root={pictures}", f"hydra.run.dir={tmp_path}"
    )
    assert told.startswith(f"run_dir={tmp_path}: holds a run already; continue it with resume=")


def test_a_folder_that_cannot_be_made_is_named(message_of: MessageOf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    assert message_of(f"hydra.run.dir={folder}") == (
        f"run_dir={folder}: cannot be written to (Not a directory); choose another folder with "
        "hydra.run.dir=FOLDER"
    )
