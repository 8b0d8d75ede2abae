"""The trigger word in captions and prompts: in front of those that do not have it."""

import re


def has_word(text: str, word: str) -> bool:
    """Whether a text contains these whole words, in any letter case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def with_trigger_word(text: str, trigger_word: str | None) -> str:
    """A prompt with the trigger word in front, unless it has it or there is none."""
    if not trigger_word or has_word(text, trigger_word):
        return text
    return f"{trigger_word}, {text}" if text else trigger_word
