"""Which GPU each process of a sweep sees."""

import pytest

from sdlora.runtime.one_gpu import set_one_visible


@pytest.mark.parametrize(
    ("given", "num_gpus", "seen"),
    [
        ({}, 2, ["0", "1", "0"]),
        ({"CUDA_VISIBLE_DEVICES": "3,5,7"}, 3, ["3", "5", "7"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, 2, ["GPU-a", "GPU-b", "GPU-a"]),
        ({"CUDA_VISIBLE_DEVICES": "5"}, 1, ["5", "5"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, ["", ""]),
        ({}, 1, [None, None]),
    ],
)
def test_jobs_take_gpus_in_turn(
    given: dict[str, str], num_gpus: int, seen: list[str | None]
) -> None:
    for job_number, expected in enumerate(seen):
        environment = dict(given)
        set_one_visible(job_number, num_gpus, environment)
        assert environment.get("CUDA_VISIBLE_DEVICES") == expected
