"""Identities, scenes, and the captions that describe a scene."""

import re
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

TRAIN_SEEDS = range(0, 1_000_000)
"""Seeds of identities and scenes for training."""
HELD_OUT_SEEDS = range(1_000_000, 2_000_000)
"""Seeds for measurements only."""
EXAMPLE_IDENTITY_SEED = 3_000_020
"""The identity of ``examples/portraits``: outside both ranges, so that no training includes it."""

HAIR_COLOURS: dict[str, Colour] = {
    "black": (28, 26, 32),
    "brown": (122, 72, 28),
    "blonde": (238, 204, 88),
    "red": (196, 62, 22),
    "grey": (150, 150, 156),
}
CLOTH_COLOURS: dict[str, Colour] = {
    "white": (242, 242, 242),
    "black": (32, 32, 38),
    "red": (212, 44, 44),
    "orange": (240, 136, 34),
    "yellow": (240, 212, 60),
    "green": (56, 152, 74),
    "blue": (46, 92, 204),
    "purple": (128, 60, 160),
    "pink": (244, 150, 186),
}
HAT_COLOURS = ("white", "black", "red", "yellow", "green", "blue", "purple")
BACKGROUND_COLOURS = ("white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink")
BACKGROUND_RGB: dict[str, Colour] = {**CLOTH_COLOURS, "grey": (128, 130, 136)}
HAIR_STYLES = {
    "man": ("short", "parted", "curly", "spiky", "long", "bald"),
    "woman": ("long", "bob", "bun", "curly", "ponytail"),
}
HAT_STYLES = ("top hat", "bowler hat", "beanie")
# Pairs of hair and background, or hat and background, that the eye cannot tell apart.
_ALIKE = {("red", "red"), ("red", "orange"), ("blonde", "yellow"), ("grey", "grey"),
          ("brown", "orange")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """A person's face, never named in a caption; lengths in units of a 64-pixel picture."""

    skin: Colour
    face_width: float
    face_height: float
    jaw: float
    squareness: float
    eye_colour: Colour
    eye_size: float
    eye_open: float
    eye_spacing: float
    eye_tilt: float
    brow_weight: float
    brow_angle: float
    brow_height: float
    nose_length: float
    nose_width: float
    ear_size: float
    mouth_width: float
    mouth_height: float
    lip_fullness: float
    blush: float
    freckles: bool
    moles: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that varies between pictures of a person; most of it is captioned."""

    kind: str
    hair_colour: str
    hair_style: str
    glasses: bool
    hat: str | None
    hat_style: str
    beard: bool
    smile: bool
    shirt: str
    background: str
    shift_x: float
    shift_y: float
    scale: float
    tilt: float

    def attributes(self) -> dict[str, str]:
        """Return what a classifier reads in the picture: one value name for each attribute."""
        return {
            "kind": self.kind,
            "hair": "bald" if self.hair_style == "bald" else self.hair_colour,
            "glasses": "yes" if self.glasses else "none",
            "hat": self.hat or "none",
            "beard": "yes" if self.beard else "none",
            "smile": "yes" if self.smile else "none",
            "shirt": self.shirt,
            "background": self.background,
        }


ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "kind": ("man", "woman"),
    "hair": (*HAIR_COLOURS, "bald"),
    "glasses": ("none", "yes"),
    "hat": ("none", *HAT_COLOURS),
    "beard": ("none", "yes"),
    "smile": ("none", "yes"),
    "shirt": tuple(CLOTH_COLOURS),
    "background": BACKGROUND_COLOURS,
}
"""Every attribute of a scene, with all its values."""

_SKINS = np.array(
    [[252, 222, 200], [240, 196, 158], [216, 162, 112], [164, 106, 70], [122, 80, 62]]
)
_EYES = ((60, 112, 190), (70, 140, 80), (98, 58, 24), (40, 30, 26), (110, 124, 134), (160, 110, 40))


def _colour(values: np.ndarray) -> Colour:
    r, g, b = (int(v) for v in np.clip(np.round(values), 0, 255))
    return r, g, b


def random_identity(seed: int) -> Identity:
    """Draw a random face, a function of ``seed``."""
    rng = np.random.default_rng([1, seed])
    tone = rng.uniform(0, len(_SKINS) - 1)
    low = min(int(tone), len(_SKINS) - 2)
    skin = _SKINS[low] + (tone - low) * (_SKINS[low + 1] - _SKINS[low]) + rng.normal(0, 4, 3)
    num_moles = int(rng.choice([0, 1, 2], p=[0.45, 0.4, 0.15]))
    spots = ((-0.56, 0.3), (0.56, 0.3), (-0.5, 0.5), (0.5, 0.5), (0.0, -0.36), (0.68, 0.1))
    places = rng.choice(len(spots), size=num_moles, replace=False)
    return Identity(
        skin=_colour(skin),
        face_width=rng.uniform(12.2, 16.2),
        face_height=rng.uniform(15.2, 18.4),
        jaw=rng.uniform(0.05, 0.42),
        squareness=rng.uniform(1.9, 2.9),
        eye_colour=_EYES[rng.integers(len(_EYES))],
        eye_size=rng.uniform(2.5, 4.0),
        eye_open=rng.uniform(0.5, 0.85),
        eye_spacing=rng.uniform(5.4, 7.4),
        eye_tilt=rng.uniform(-0.7, 0.7),
        brow_weight=rng.uniform(0.7, 1.8),
        brow_angle=rng.uniform(-1.1, 1.1),
        brow_height=rng.uniform(3.8, 5.2),
        nose_length=rng.uniform(5.0, 9.0),
        nose_width=rng.uniform(1.6, 3.4),
        ear_size=rng.uniform(2.0, 4.4),
        mouth_width=rng.uniform(3.8, 6.4),
        mouth_height=rng.uniform(0.58, 0.68),
        lip_fullness=rng.uniform(0.7, 1.6),
        blush=rng.uniform(0.0, 1.0),
        freckles=bool(rng.random() < 0.25),
        moles=tuple(spots[i] for i in places),
    )


def random_scene(seed: int) -> Scene:
    """Draw a random scene, a function of ``seed``; all its attributes are visible."""
    rng = np.random.default_rng([2, seed])
    kind = str(rng.choice(["man", "woman"]))
    style = str(rng.choice(HAIR_STYLES[kind]))
    hair = str(rng.choice(list(HAIR_COLOURS)))
    background = str(rng.choice([c for c in BACKGROUND_COLOURS if (hair, c) not in _ALIKE]))
    shirt = str(rng.choice([c for c in CLOTH_COLOURS if c not in (background,)]))
    hats = [c for c in HAT_COLOURS if c not in (background, hair)]
    has_hat = style != "bald" and rng.random() < 0.42
    hat = str(rng.choice(hats)) if has_hat else None
    return Scene(
        kind=kind,
        hair_colour=hair,
        hair_style=style,
        glasses=bool(rng.random() < 0.35),
        hat=hat,
        hat_style=str(rng.choice(HAT_STYLES)),
        beard=kind == "man" and bool(rng.random() < 0.4),
        smile=bool(rng.random() < 0.4),
        shirt=shirt,
        background=background,
        shift_x=rng.uniform(-1.6, 1.6),
        shift_y=rng.uniform(-1.2, 1.2),
        scale=rng.uniform(0.93, 1.05),
        tilt=rng.uniform(-4.0, 4.0),
    )


_OPENINGS = (
    "",
    "",
    "",
    "a portrait of ",
    "a drawing of ",
    "a picture of ",
    "head and shoulders of ",
)
_STYLE_WORDS = {"long": "long ", "short": "short ", "curly": "curly ", "spiky": "spiky "}


def _hair_words(scene: Scene, rng: np.random.Generator) -> str:
    style = _STYLE_WORDS.get(scene.hair_style, "") if rng.random() < 0.5 else ""
    return f"{style}{scene.hair_colour} hair"


def _hat_words(scene: Scene, rng: np.random.Generator) -> str:
    return f"{scene.hat} {scene.hat_style if rng.random() < 0.4 else 'hat'}"


def _listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene: Scene, seed: int) -> str:
    """Describe a scene: kind, hair, shirt, background, and hat, glasses, beard, smile if present.

    Args:
        scene: The scene.
        seed: Chooses the wording.
    """
    rng = np.random.default_rng([3, seed])
    bald = scene.hair_style == "bald"
    form = rng.choice(["sentence", "worn", "tags"], p=[0.5, 0.3, 0.2])
    if form == "tags":
        tags = [f"{scene.background} background", f"{scene.shirt} shirt"]
        tags += ["bald"] if bald else [_hair_words(scene, rng)]
        tags += ["beard"] if scene.beard else []
        tags += ["smiling"] if scene.smile else []
        tags += ["glasses"] if scene.glasses else []
        tags += [_hat_words(scene, rng)] if scene.hat else []
        return ", ".join([scene.kind, *(str(tag) for tag in rng.permutation(tags))])

    smiling_first = scene.smile and rng.random() < 0.7
    subject = ("smiling " if smiling_first else "") + ("bald " if bald else "") + scene.kind
    traits = [] if bald else [_hair_words(scene, rng)]
    traits += ["a beard"] if scene.beard else []
    worn = [f"a {scene.shirt} shirt"] + ([f"a {_hat_words(scene, rng)}"] if scene.hat else [])
    glasses_are_worn = form == "worn" or rng.random() < 0.3
    if scene.glasses:
        (worn if glasses_are_worn else traits).append("glasses")
    worn = [str(item) for item in rng.permutation(worn)]
    traits = [str(item) for item in rng.permutation(traits)]
    text = str(rng.choice(_OPENINGS)) + f"a {subject}"
    with_traits = f" with {_listing(traits)}" if traits else ""
    verb = " wearing " if glasses_are_worn or rng.random() < 0.4 else " in "
    text += with_traits + verb + _listing(worn)
    text += ", smiling" if scene.smile and not smiling_first else ""
    place = rng.choice([", {} background", " on a {} background", " against a {} background"])
    text += str(place).format(scene.background)
    return text.replace(" a orange", " an orange")


def _named_colour(text: str, noun: str, colours: tuple[str, ...]) -> str | None:
    found = re.search(rf"\b({'|'.join(colours)})\s+(?:{noun})\b", text)
    return found.group(1) if found else None


def attributes_named(caption: str) -> dict[str, str]:
    """Parse a caption into attributes, as in ``Scene.attributes``.

    Args:
        caption: A text of :func:`caption` or of similar form.

    Returns:
        Attribute name to value name; attributes that the caption does not mention are left out.
    """
    text = caption.lower()
    named: dict[str, str | None] = {}
    kind = re.search(r"\b(man|woman)\b", text)
    named["kind"] = kind.group(1) if kind else None
    bald = re.search(r"\bbald\b", text)
    named["hair"] = "bald" if bald else _named_colour(text, "hair", tuple(HAIR_COLOURS))
    for word in ("glasses", "beard"):
        named[word] = "yes" if re.search(rf"\b{word}\b", text) else None
    named["smile"] = "yes" if re.search(r"\bsmil(?:ing|e|es)\b", text) else None
    named["hat"] = _named_colour(text, "hat|top hat|bowler hat|beanie", HAT_COLOURS)
    named["shirt"] = _named_colour(text, "shirt", tuple(CLOTH_COLOURS))
    named["background"] = _named_colour(text, "background", BACKGROUND_COLOURS)
    return {name: value for name, value in named.items() if value is not None}
