"""What a search goes for, from the config."""

from dataclasses import replace

import pytest

from sdlora.assembly.search_goal import search_goal
from sdlora.config.rules import ConfigError
from tests.composed import train_config


def test_a_goal_is_what_the_keys_say() -> None:
    given = ["sweep.objectives=[clip_score,face_distance]", "sweep.prune_after=3"]
    config = train_config(*given)
    goal = search_goal(config.sweep, config.evaluation, {"lora.r": "choice(2,4)"})
    assert list(goal.objectives.items()) == [
        ("clip_score", "maximize"),
        ("face_distance", "minimize"),
    ]
    assert goal.prune_after == 3
    assert goal.space == {"lora.r": "choice(2,4)"}
    with pytest.raises(ConfigError, match="^hydra.sweeper.params={}: give some key several val"):
        search_goal(config.sweep, config.evaluation, {})
    for objective, why in (("neatness", "neatness"), ("aesthetic", "aesthetic: is not measured")):
        other = replace(config.sweep, objectives=[objective])
        with pytest.raises(ConfigError, match=f"^sweep.objectives={why}"):
            search_goal(other, config.evaluation, {"lora.r": "choice(2,4)"})
