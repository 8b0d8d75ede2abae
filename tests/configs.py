"""Configs of the ``data`` group as ``conf/data/folder.yaml`` has them, but for what a test sets."""

from functools import cache
from typing import Any

from omegaconf import OmegaConf

from sdlora.cli.composition import register_resolvers
from sdlora.config.captions import CaptionsConfig
from sdlora.config.data import (
    BucketsConfig,
    CacheConfig,
    DataConfig,
    HubConfig,
    RootConfig,
)
from sdlora.config.data_filters import FiltersConfig
from sdlora.config.data_prior import PriorConfig
from sdlora.runtime.places import CONF

GROUPS = {
    "buckets": BucketsConfig,
    "captions": CaptionsConfig,
    "filters": FiltersConfig,
    "prior": PriorConfig,
    "cache": CacheConfig,
    "hub": HubConfig,
}


@cache
def written() -> dict[str, Any]:
    """The values of ``conf/data/folder.yaml``, with those that the embedded base brings."""
    register_resolvers()
    files = {"data": CONF / "data" / "folder.yaml", "model": CONF / "model" / "tiny.yaml"}
    both = OmegaConf.create({group: OmegaConf.load(path) for group, path in files.items()})
    values: Any = OmegaConf.to_container(both, resolve=True)
    found: dict[str, Any] = values["data"]
    return found


def captions_config(**changes: Any) -> CaptionsConfig:
    return CaptionsConfig(**(written()["captions"] | changes))


def filters_config(**changes: Any) -> FiltersConfig:
    return FiltersConfig(**(written()["filters"] | changes))


def buckets_config(**changes: Any) -> BucketsConfig:
    return BucketsConfig(**(written()["buckets"] | changes))


def hub_config(**changes: Any) -> HubConfig:
    return HubConfig(**(written()["hub"] | changes))


def data_config(**changes: Any) -> DataConfig:
    """The group ``data``; ``cache={"mode": "off"}`` changes a key of a group within it."""
    groups = {
        name: group(**(written()[name] | changes.pop(name, {}))) for name, group in GROUPS.items()
    }
    roots = [RootConfig(**root) for root in changes.pop("roots", [])]
    return DataConfig(**(written() | groups | {"roots": roots} | changes))
