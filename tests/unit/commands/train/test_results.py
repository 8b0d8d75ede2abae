"""The HParams table of a sweep, as TensorBoard itself reads it."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from sdlora.commands.train.results import log_hparams
from sdlora.commands.train.training_run import TrainingRun
from sdlora.evaluation.scores import Scores
from sdlora.runs.best import Best, BestAdapter
from sdlora.runtime.progress import Progress
from sdlora.training.loggers import RunTensorBoard
from tests.sweep_folders import write_sweep


def write_events(folder: Path, face: float, has_best: bool = True) -> None:
    """As a finished run leaves them."""
    logger = RunTensorBoard(folder, Progress(enabled=False))
    best = Best(10, Scores(1, {"face_distance": face / 2})) if has_best else None
    run = SimpleNamespace(
        folder=folder,
        specs={"unet": None},  # so it is a LoRA
        trainer=SimpleNamespace(loggers=[logger]),
    )
    base, last, real = (Scores(1, {"face_distance": value}) for value in (1.25, face, 0.25))
    keeper = cast(BestAdapter, SimpleNamespace(best=best))
    log_hparams(cast(TrainingRun, run), keeper, base=base, last=last, real=real)


def hparams_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a run -> its row in the HParams tab."""
    events = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(events, str(folder))
    context = backend_context.Context(TBContext(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS]
    )
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    rows = {}
    for group in handler.run().session_groups:
        values = {key: value.number_value for key, value in group.hparams.items()}
        values |= {metric.name.tag: metric.value for metric in group.metric_values}
        rows[group.sessions[0].name] = values
    return rows


def test_the_cells_of_a_sweep_are_a_table_of_swept_keys(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, [{"lora.r": 2, "seed": 1}, {"lora.r": 4, "seed": 1}])
    for folder, face in zip(folders, (0.75, 0.5), strict=True):
        write_events(folder, face)
    table = hparams_table(tmp_path)
    assert list(table) == ["lora.r=2,seed=1/tensorboard", "lora.r=4,seed=1/tensorboard"]
    assert table["lora.r=4,seed=1/tensorboard"] == pytest.approx(
        {
            **{"lora.r": 4, "seed": 1},
            **{"results_final/face_distance": 0.5, "results_final/gap_closed": 0.75},
            **{"results_best/face_distance": 0.25, "results_best/step": 10},
        }
    )


def test_a_cell_without_a_best_step_hides_no_other_cells(tmp_path: Path) -> None:
    """TensorBoard takes the columns of all rows from the first run that it reads."""
    folders = write_sweep(tmp_path, [{"lora.r": 2}, {"lora.r": 4}])
    write_events(folders[0], 0.75, has_best=False)
    write_events(folders[1], 0.5)
    first, second = hparams_table(tmp_path).values()
    assert math.isnan(first["results_best/face_distance"])
    assert (second["results_best/face_distance"], second["results_best/step"]) == (0.25, 10)
