"""The embedded captioner, which names the attributes of drawn portraits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.runtime.places import ASSETS
from sdlora.world.attributes import AttributeClassifier
from sdlora.world.convolutions import SIZE_PX, square_pixels

SIZE = (SIZE_PX, SIZE_PX)
"""Width and height of a drawn portrait."""


@dataclass(frozen=True, slots=True)
class DrawnWorldCaptioner:
    """Names what the attribute classifier of the drawn world sees.

    Attributes:
        classifier: Reads the pictures.
    """

    classifier: AttributeClassifier

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Describe pictures; see ``Captioner``."""
        pixels = torch.stack([square_pixels(image) for image in images])
        seen = self.classifier.predict(pixels.to(self.classifier.device))
        return [described(each) for each in seen]


def load(folder: Path | None, compute: Compute, wishes: Wishes) -> DrawnWorldCaptioner:
    """Load the shipped classifier, which computes in float32; nothing else can be wished."""
    classifier = AttributeClassifier.from_pretrained(folder or ASSETS / "tiny-attributes")
    return DrawnWorldCaptioner(classifier.to(compute.device))


def described(seen: Mapping[str, str]) -> str:
    """A sentence in the words of the drawn world that names all attributes, as ``caption`` does.

    Args:
        seen: Attribute name to value name, as ``Scene.attributes`` gives them.
    """
    smiling, bald = seen["smile"] == "yes", seen["hair"] == "bald"
    subject = f"a {'smiling ' * smiling}{'bald ' * bald}{seen['kind']}"
    traits = [] if bald else [f"{seen['hair']} hair"]
    traits += ["a beard"] * (seen["beard"] == "yes")
    worn = [_with_article(f"{seen['shirt']} shirt")]
    worn += [] if seen["hat"] == "none" else [_with_article(f"{seen['hat']} hat")]
    worn += ["glasses"] * (seen["glasses"] == "yes")
    with_traits = f" with {_listing(traits)}" if traits else ""
    return f"{subject}{with_traits} wearing {_listing(worn)}, {seen['background']} background"


def _with_article(words: str) -> str:
    return f"an {words}" if words.startswith("orange") else f"a {words}"


def _listing(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
