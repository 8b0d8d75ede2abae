"""The table of captioners: name, model of the Hub, class; help, docs and errors derive from it."""

import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sdlora.weights.hub_models import (
    FEATURES,
    TAGGER,
    HubModel,
    cached_folder,
    folder_fault,
    is_hub_id,
)


@dataclass(frozen=True, slots=True)
class CaptionerKind:
    """A class of captioners.

    Attributes:
        name: What ``--model`` calls it.
        what: What it is for, in a few words.
        load: ``module:function``, imported when it is used; called with folder, ``Compute`` and
            ``Wishes``, it returns a ``Captioner``.
        model: Its model on the Hub; ``None``: it comes with the project.
        files: Kind of that model's files: ``FEATURES`` or ``TAGGER``.
        instructions: What ``--instruction`` may say: ``None`` if nothing, empty if anything.
        is_tags: Whether it writes tags, not sentences.
        base: Name in ``conf/model`` of the base for which its captions are meant by default.
        library: Module that it needs beyond the project's own.
        package: What ``pip install`` takes for it.
    """

    name: str
    what: str
    load: str
    model: str | None = None
    files: str = FEATURES
    instructions: tuple[str, ...] | None = None
    is_tags: bool = False
    base: str = "sd15"
    library: str | None = None
    package: str | None = None

    def loader(self) -> Callable[..., Any]:
        """Its load function."""
        found: Callable[..., Any] = pkgutil.resolve_name(self.load)
        return found


CAPTIONERS = {
    kind.name: kind
    for kind in (
        CaptionerKind(
            "tiny",
            "the embedded one, for drawn portraits of 64 pixels alone",
            "sdlora.captioning.drawn_world:load",
            base="tiny",
        ),
        CaptionerKind(
            "blip",
            "a short sentence; small and fast",
            "sdlora.captioning.blip:load",
            "Salesforce/blip-image-captioning-large",
        ),
        CaptionerKind(
            "florence2",
            "one sentence or several",
            "sdlora.captioning.florence2:load",
            "florence-community/Florence-2-large",
            instructions=("caption", "detailed_caption", "more_detailed_caption"),
        ),
        CaptionerKind(
            "vlm",
            "a language model that sees and follows an instruction",
            "sdlora.captioning.chat_captioner:load",
            "Qwen/Qwen3-VL-4B-Instruct",  # Apache 2.0; Qwen2.5-VL-3B's licence is for research
            instructions=(),
        ),
        CaptionerKind(
            "wd",
            "tags, as for drawings of anime",
            "sdlora.captioning.wd_tagger:load",
            "SmilingWolf/wd-vit-tagger-v3",
            TAGGER,
            is_tags=True,
            library="onnxruntime",
            package='"sdlora[tagger]"',
        ),
    )
}
"""Name -> captioner."""

_BY_MODEL_TYPE = {"blip": "blip", "florence2": "florence2"}
"""``model_type`` of a config -> captioner; any other is asked as a VLM."""

TAGS_FILE = "selected_tags.csv"


@dataclass(frozen=True, slots=True)
class ChosenCaptioner:
    """What ``--model`` names.

    Attributes:
        kind: Its class.
        given: As it was given.
        hub: The model of the Hub; ``None`` for a folder and for the embedded one.
        folder: A folder that was given.
    """

    kind: CaptionerKind
    given: str
    hub: HubModel | None = None
    folder: Path | None = None

    def place(self) -> Path | None:
        """Where its files are; ``None`` for the embedded one, and for what was not fetched."""
        return self.folder if self.hub is None else cached_folder(self.hub)


def chosen_captioner(given: str) -> ChosenCaptioner:
    """The captioner of a name of the table, a folder, or the id of a model of the Hub.

    The class of the latter two is that of their files. Of a model that was not fetched yet it is
    guessed: a tagger by its name, else a VLM, whose files are named like those of the others.

    Raises:
        ValueError: If it is none of them, or a folder that holds no whole model.
    """
    if (kind := CAPTIONERS.get(given)) is not None:
        hub = None if kind.model is None else HubModel(kind.model, kind.files)
        return ChosenCaptioner(kind, given, hub)
    folder = Path(given).expanduser()
    if folder.is_dir():
        kind = _kind_of(folder)
        if what := folder_fault(HubModel(given, kind.files), folder):
            raise ValueError(f"--model={given}: {what}; copy the whole model there")
        return ChosenCaptioner(kind, given, None, folder)
    if not is_hub_id(given):
        near = get_close_matches(given, CAPTIONERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"--model={given}: no captioner, folder or Hub id of this name; {hint}there are "
            f"{', '.join(CAPTIONERS)}"
        )
    guessed = CAPTIONERS["wd" if "tagger" in given.casefold() else "vlm"]
    cached = cached_folder(HubModel(given, guessed.files))
    kind = guessed if cached is None else _kind_of(cached)
    return ChosenCaptioner(kind, given, HubModel(given, kind.files))


def _kind_of(folder: Path) -> CaptionerKind:
    """The class of the model in a folder."""
    if (folder / TAGS_FILE).is_file():
        return CAPTIONERS["wd"]
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--model={folder}: has no readable config.json of a model of transformers, and no "
            f"{TAGS_FILE} of a tagger ({type(error).__name__}); give the folder of a whole model"
        ) from error
    return CAPTIONERS[_BY_MODEL_TYPE.get(kind, "vlm")]
