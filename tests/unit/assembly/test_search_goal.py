"""What a search goes for, from the config."""

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from sdlora.assembly.search_goal import search_goal
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runtime.places import CONF


def test_a_goal_is_what_the_keys_say() -> None:
    register_schemas()
    given = ["sweep.objectives=[clip_score,face_distance]", "sweep.prune_after=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_typed(compose("train", ["run_dir=here", *given]), TrainConfig)
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
