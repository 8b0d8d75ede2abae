"""Prompts to draw: read from a file, combined with seeds, and reworded for the class."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import ConfigError
from sdlora.config.sampling import CAPTIONS, SamplingConfig
from sdlora.data.captions.trigger_word import with_trigger_word
from sdlora.runtime.places import located

MOST_CAPTIONS = 8
"""Number of captions that are prompts, unless ``sampling.num_prompts`` says another."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture to draw: equal (text, seed) give equal pictures in any batch.

    Attributes:
        text: What the picture shows; empty for an unconditional model.
        seed: Any integer; 0 is a seed.
    """

    text: str
    seed: int

    def __str__(self) -> str:
        return f"prompt {self.text!r} (seed {self.seed})"


def prompts_of(config: SamplingConfig, captions: Sequence[str] = ()) -> tuple[Prompt, ...]:
    """Every prompt of the list or file with every seed; without prompts, each seed once.

    Args:
        config: Prompts and seeds.
        captions: The prompts where ``sampling.prompts`` is ``captions``.

    Raises:
        ConfigError: If the file cannot be read or holds no prompt, or no picture has a caption.
    """
    texts = _texts(config, captions)[: config.num_prompts]
    after = range(max(config.seeds) + 1, max(config.seeds) + 1 + (config.num_seeds or 0))
    seeds = [*config.seeds, *after][: config.num_seeds or len(config.seeds)]
    whole = [with_trigger_word(config.prompt_prefix + text, config.trigger_word) for text in texts]
    return tuple(Prompt(text, seed) for text in whole for seed in seeds)


def _texts(config: SamplingConfig, captions: Sequence[str]) -> Sequence[str]:
    if config.prompts is None:
        return [""]
    if isinstance(config.prompts, list):
        return config.prompts
    if config.prompts != CAPTIONS:
        return read_prompts(located(config.prompts))
    if not captions:
        raise ConfigError(
            f"sampling.prompts={CAPTIONS}: no picture has a caption; name a text file with one "
            "prompt for each line"
        )
    return captions


def distinct_captions(texts: Iterable[str], config: SamplingConfig) -> list[str]:
    """Captions as prompts: each once, in order, in one line.

    Args:
        texts: The captions; those without words are left out.
        config: How many; and the prefix, which a prompt will have anyway: a caption that begins
            with it loses it here.
    """
    lines = (" ".join(text.split()) for text in texts)
    prefix = config.prompt_prefix
    found = dict.fromkeys(line.removeprefix(prefix) or line for line in lines if line)
    return list(found)[: config.num_prompts or MOST_CAPTIONS]


def prior_prompts(
    config: SamplingConfig, evaluation: EvaluationConfig, captions: Sequence[str] = ()
) -> tuple[Prompt, ...]:
    """The first prompts with the trigger word, in which the class word replaces it.

    Args:
        config: Prompts and seeds.
        evaluation: The words, and how many prompts.
        captions: As for :func:`prompts_of`.

    Raises:
        ConfigError: If they are needed and no prompt contains it.
    """
    if not evaluation.prior_prompts:
        return ()
    words = evaluation.trigger_word, evaluation.class_word
    reworded = [(each, with_class_word(each.text, *words)) for each in prompts_of(config, captions)]
    found = [Prompt(text, each.seed) for each, text in reworded if text != each.text]
    if not found:
        raise ConfigError(
            f"evaluation.trigger_word={evaluation.trigger_word}: in no prompt of {config.prompts}; "
            "give the word that names the person in them"
        )
    return tuple(dict.fromkeys(found))[: evaluation.prior_prompts]


def with_class_word(text: str, trigger_word: str | None, class_word: str | None) -> str:
    """A prompt with the trigger word replaced by its class word.

    A model that scores pictures never saw the trigger word; it can only judge the class. "sks man"
    becomes "man" with the trigger word ``sks`` and the class word ``man``, not "man man".

    Args:
        text: The prompt.
        trigger_word: Whole words, any case; None leaves the prompt as it is.
        class_word: Its replacement.
    """
    if not trigger_word or class_word is None:
        return text
    trigger, noun = re.escape(trigger_word), re.escape(class_word)
    pattern = rf"(?<!\w){trigger}(?!\w)(?:\s+{noun}(?!\w))?"
    return re.sub(pattern, lambda _: class_word, text, flags=re.IGNORECASE)


def read_prompts(path: Path | str) -> list[str]:
    """Read one prompt for each line; blank lines and a byte-order mark are skipped.

    Args:
        path: A UTF-8 text file.

    Returns:
        The prompts, stripped, in order.

    Raises:
        ConfigError: If the file is missing, is not UTF-8 (with the byte offset), or has no prompt.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"sampling.prompts={path}: not UTF-8 at byte {error.start}; save the file as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"sampling.prompts={path}: cannot be read ({error.strerror}); "
            "give a text file with one prompt a line."
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"sampling.prompts={path}: no prompt in it; write one prompt a line.")
    return found


def picture_name(index: int, text: str) -> str:
    """File name of a picture: index and hash, so that no prompt can choose a path.

    Args:
        index: Position in the list of pictures.
        text: The prompt.
    """
    return f"{index:03d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.png"
