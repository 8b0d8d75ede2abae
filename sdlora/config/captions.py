"""The typed schema of the key ``data.captions``; values live in ``conf/data``, checks live here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.rules import require, require_choice, require_count, require_fraction


@dataclass(slots=True, kw_only=True)
class CaptionsConfig:
    """How the text of a picture becomes the caption of one sample."""

    endings: list[str] = field(default_factory=list)
    """Endings of caption files beside the pictures, tried in order, any letter case."""
    default: str | None = None
    """Caption of pictures that have none; ``""`` trains without words (a style), ``null`` is an
    error."""
    lines: str = MISSING
    """Of a caption of several lines: ``all`` of them, the ``first``, or a ``random`` one."""
    tags: bool = MISSING
    """Whether captions are lists of tags."""
    separator: str = MISSING
    """Between tags."""
    shuffle: bool = MISSING
    """Tags in another order for each sample."""
    keep_tokens: int = MISSING
    """So many tags at the front are neither shuffled nor dropped; >= 0."""
    tag_dropout: float = MISSING
    """Probability that a tag is left out; [0, 1)."""
    dropout: float = MISSING
    """Probability that a sample trains with an empty caption; [0, 1)."""
    prefix: str = MISSING
    """Before every caption."""
    suffix: str = MISSING
    """Behind every caption."""
    wildcards: bool = MISSING
    """``{red|blue}`` stands for one of its words, another for each sample."""
    max_chunks: int = MISSING
    """Longest caption, in chunks of 75 tokens; every caption takes so many; >= 1."""

    def __post_init__(self) -> None:
        require_choice("data.captions.lines", self.lines, ("all", "first", "random"))
        require_count("data.captions.keep_tokens", self.keep_tokens, 0)
        require_count("data.captions.max_chunks", self.max_chunks)
        require(
            bool(self.separator.strip()),
            "data.captions.separator",
            repr(self.separator),
            "needs a visible character",
        )
        require_fraction("data.captions.dropout", self.dropout)
        require_fraction("data.captions.tag_dropout", self.tag_dropout)
        for key in ("shuffle", "keep_tokens", "tag_dropout"):
            require(
                self.tags or not getattr(self, key),
                f"data.captions.{key}",
                getattr(self, key),
                "works on tags; set data.captions.tags=true",
            )
        for ending in self.endings:
            require(
                ending.startswith(".") and len(ending) > 1,
                "data.captions.endings",
                ending,
                "must begin with a dot, such as .txt",
            )
