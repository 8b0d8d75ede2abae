"""The GPU script's own parts: lines kept as they come, time boxes, equal changes."""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.bench import Trained, largest_difference, metrics
from benchmarks.gpu.faster import FloorStep, merged_projections
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.page import write_page
from benchmarks.gpu.works import FIRST_SCALE, Overflow, _describe
from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.models.loading import load_family
from sdlora.models.source import ModelSource
from tests.places import REPOSITORY


def quiet(line: str) -> None:
    pass


def test_what_fails_is_a_line_and_those_before_and_after_it_are_kept(tmp_path: Path) -> None:
    told: list[str] = []
    findings = Findings(tmp_path / "part.json", told.append)
    findings.add("first", "1.01", "at most 1.05", True)
    with findings.trying("second"):
        raise RuntimeError("out of memory\nand a long trace")
    findings.not_measured("third", "no GPU")
    lines = json.loads((tmp_path / "part.json").read_text("utf-8"))
    assert [(each["what"], each["found"], each["is_right"]) for each in lines] == [
        ("first", "1.01", True),
        ("second", "RuntimeError: out of memory", False),
        ("third", "not measured: no GPU", None),
    ]
    assert told[1].startswith("NOT second: RuntimeError")


def test_the_page_has_a_table_for_each_part_that_has_written(tmp_path: Path) -> None:
    Findings(tmp_path / "fast.json", quiet).add("ours / floor", "1.2 | slow", "at most 1.05", False)
    page = write_page(tmp_path, [("works", "It works."), ("fast", "It is fast.")], "a card")
    text = page.read_text("utf-8")
    assert "| ✗ | ours / floor | 1.2 \\| slow | at most 1.05 | 0 |" in text
    assert "## works\n\nIt works.\n\nNot measured.\n" in text


def options(folder: Path, **other: Any) -> argparse.Namespace:
    given = {"tiny": True, "minutes": 9.0, "out": folder / "out", "scratch": folder, **other}
    return argparse.Namespace(**given)


@pytest.mark.parametrize(
    ("code", "seconds", "went_well", "said"),
    [
        ("pass", 60, True, ""),
        ("import sys; sys.exit(1)", 60, False, ""),
        ("import threading; threading.Event().wait()", 0.2, False, "stopped after 0 s"),
    ],
)
def test_a_part_has_a_process_and_a_time_of_its_own(
    code: str,
    seconds: float,
    went_well: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin = subprocess.Popen
    monkeypatch.setattr(
        script.subprocess,
        "Popen",
        lambda command, **how: begin([sys.executable, "-c", code], **how),
    )
    assert script._in_box(options(tmp_path), "right", seconds) == went_well
    assert said in capsys.readouterr().out


def test_parts_without_time_are_not_begun_and_that_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(script, "_in_box", lambda given, name, seconds: begun.append(name) or True)
    names = list(script.PARTS)
    assert script.measure(options(tmp_path), names)
    assert begun == names
    assert not script.measure(options(tmp_path, minutes=0.0), names)
    assert begun == names
    assert capsys.readouterr().out.count("not begun, the time is over") == len(names)


def test_what_is_not_installed_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert script.lacking_packages() == []
    monkeypatch.setattr(script, "_is_installed", lambda name: name != "hydra-core")
    assert script.lacking_packages() == ["hydra-core"]


def test_every_part_is_a_function_that_the_readme_names() -> None:
    readme = (REPOSITORY / "benchmarks" / "README.md").read_text("utf-8")
    for name, part in script.PARTS.items():
        assert callable(script.pkgutil.resolve_name(f"benchmarks.gpu.{part.function}"))
        assert f"`{name}`" in readme


def test_a_run_that_ended_otherwise_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    run = Trained(tmp_path, 1, "one\nout of memory\n\n")
    with pytest.raises(RuntimeError, match="exit code 1 instead of 0: out of memory"):
        run.require()
    assert run.require(1) is run


def test_only_whole_lines_of_metrics_are_read(tmp_path: Path) -> None:
    assert metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n{"ste', "utf-8")
    assert metrics(tmp_path) == [{"step": 1, "train/loss": 2.0}]


def test_a_run_that_left_a_part_out_did_not_work(tmp_path: Path) -> None:
    for name in ("report.json", "report.html"):
        (tmp_path / name).touch()
    for name in ("lora", "last"):
        (tmp_path / name).mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n', "utf-8")
    told = "memory: about 1 MiB\nexport proved: loaded back\n"
    for change, is_right in (
        ({}, True),
        ({"told": "no proof"}, False),
        ({"losses": '{"step": 1, "train/loss": NaN}\n'}, False),
    ):
        findings = Findings(tmp_path / "part.json", quiet)
        (tmp_path / "metrics.jsonl").write_text(
            change.get("losses", '{"step": 1, "train/loss": 2.0}\n'), "utf-8"
        )
        _describe(Trained(tmp_path, 0, change.get("told", told)), findings)
        assert findings.lines[0].is_right == is_right, change


def test_differences_of_files_of_other_names_are_infinite() -> None:
    one = {"a": torch.ones(2)}
    assert largest_difference(one, {"a": torch.tensor([1.0, 1.5])}) == 0.5
    assert largest_difference(one, {"b": torch.ones(2)}) == float("inf")


def test_an_overflow_comes_once(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    module = SimpleNamespace(parameters=lambda: [weight])
    scaler = SimpleNamespace(get_scale=lambda: FIRST_SCALE)
    trainer = cast(
        Any, SimpleNamespace(global_step=2, precision_plugin=SimpleNamespace(scaler=scaler))
    )
    overflow = Overflow(2)
    infinite = []
    for _ in range(2):
        weight.grad = torch.zeros(2)
        overflow.on_train_batch_start(trainer)
        overflow.on_after_backward(trainer, module)
        infinite.append(bool(torch.isinf(weight.grad).all()))
    assert infinite == [True, False]
    assert overflow.scales == [FIRST_SCALE] * 2


def test_merged_projections_compute_the_same_and_go_again(random_base: Path) -> None:
    unet: Any = load_family(ModelSource(str(random_base)), 0).unet
    layers = ("to_q", "to_k", "to_v")
    add_lora(unet, LoraSpec(2, 2.0, 0.0, layers), seed=0)
    for number, weight in enumerate(lora_parameters(unet).values()):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(number))
    unet.train()

    def gradients(model: UNet2DConditionModel) -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        z, told = (torch.randn(size, generator=draw) for size in ((2, 4, 8, 8), (2, 5, 16)))
        model.zero_grad()
        model(z, torch.tensor([3, 7]), told).sample.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = gradients(unet)
    with merged_projections(cast(FloorStep, SimpleNamespace(unet=unet))):
        assert any("forward" in vars(layer) for layer in unet.modules())
        off = torch.linalg.vector_norm(gradients(unet) - plain)
        assert off < 1e-4 * torch.linalg.vector_norm(plain)  # other order of the same sums
    assert not any("forward" in vars(layer) for layer in unet.modules())
    assert torch.equal(gradients(copy.copy(unet)), plain)
