"""Captions as the user's turn of a chat, as text encoders that are language models read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """A language model's tokenizer with its chat template.

    A caption is the user's turn, followed by the begin of the answer; it is cut at, and padded on
    the right to, ``max_tokens``.

    Attributes:
        tokenizer: The language model's own, whose files hold the template.
        enable_thinking: Passed to the template: where it is off, Qwen3's writes empty thoughts.
        max_tokens: Length of all token ids, template included.
    """

    tokenizer: Any
    enable_thinking: bool
    max_tokens: int

    def written(self, caption: str) -> str:
        """The whole text of the chat."""
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.enable_thinking,
        )
        return text

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Token ids ``[n, max_tokens]``, and what was cut off each caption, ``""`` if nothing."""
        pad = int(self.tokenizer.pad_token_id)
        ids = torch.full((len(captions), self.max_tokens), pad)
        cut = []
        for row, caption in zip(ids, captions, strict=True):
            text = self.written(caption)
            found = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
            tokens = found["input_ids"]
            kept = torch.tensor(tokens[: self.max_tokens])
            row[: len(kept)] = kept
            is_whole = len(tokens) <= self.max_tokens
            cut.append("" if is_whole else self._lost(found, text, caption))
        return ids, cut

    def lengths(self, token_ids: Tensor) -> list[int]:
        """Number of tokens of each row without its padding; the most, of tokens without values."""
        is_text = token_ids != int(self.tokenizer.pad_token_id)
        places = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)
        last = (is_text * places).amax(dim=1)
        if isinstance(last, FakeTensor):  # in an estimate, of which a part may be real tensors
            return [token_ids.shape[1]] * token_ids.shape[0]
        return [max(1, length) for length in last.tolist()]

    def _lost(self, found: Any, text: str, caption: str) -> str:
        """The part of a caption behind the first token that is left out."""
        first = found["offset_mapping"][self.max_tokens][0]
        end = text.rfind(caption) + len(caption)
        return text[first:end]
