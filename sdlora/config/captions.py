"""The typed schema of the key ``data.captions``; values live in ``conf/data``, checks live here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import given, of, other_than, where
from sdlora.config.rules import require, require_choice, require_count, require_fraction


@dataclass(slots=True, kw_only=True)
class CaptionsConfig:
    """How the caption of a sample is made from the text of its picture."""

    endings: list[str] = field(default_factory=list, metadata=where(of("data.source", "folder")))
    """Endings of caption files beside the pictures, tried in order, any letter case."""
    default: str | None = field(
        default=None, metadata=where(other_than("data.source", "portraits"))
    )
    """Caption of pictures without one; ``""`` trains without words (a style), ``null`` is an
    error."""
    from_name: bool = MISSING
    """Whether the file name of a picture without a caption is its caption: ``a_red_car (2).jpg``
    is "a red car"."""
    lines: str = MISSING
    """Lines of a caption that are used: ``all`` of them, the ``first``, or a ``random`` one."""
    tags: bool = MISSING
    """Whether captions are lists of tags."""
    separator: str = field(default=MISSING, metadata=where(given(".tags")))
    """Separator of tags."""
    shuffle: bool = MISSING
    """Shuffle the tags for each sample."""
    keep_tokens: int = MISSING
    """Number of tags at the front that are neither shuffled nor dropped; >= 0."""
    tag_dropout: float = MISSING
    """Probability that a tag is left out; [0, 1)."""
    dropout: float = MISSING
    """Probability that a sample trains with an empty caption; [0, 1)."""
    prefix: str = MISSING
    """Put in front of every caption."""
    suffix: str = MISSING
    """Put behind every caption."""
    wildcards: bool = MISSING
    """``{red|blue}`` is replaced by one of its alternatives, drawn for each sample."""
    max_chunks: int = MISSING
    """Length of every caption, in chunks of 75 tokens; >= 1."""

    def __post_init__(self) -> None:
        require_choice("data.captions.lines", self.lines, ("all", "first", "random"))
        require_count("data.captions.keep_tokens", self.keep_tokens, 0)
        require_count("data.captions.max_chunks", self.max_chunks)
        require(
            not self.from_name or self.default is None,
            "data.captions.from_name",
            True,
            "and data.captions.default are both for pictures without a caption; set one of them",
        )
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
