"""The most probable texts of a captioning network, by beam search."""

from typing import Any

NUM_BEAMS = 3  # as in Florence-2's own examples


def most_probable_texts(
    network: Any, processor: Any, inputs: Any, max_new_tokens: int
) -> list[str]:
    """Texts of a network of transformers with an encoder for pictures; none is drawn by chance.

    Args:
        network: Has ``generate``.
        processor: Its processor.
        inputs: What the processor made of N pictures.
        max_new_tokens: Most tokens of a text, >= 1.

    Returns:
        N texts, without special tokens.
    """
    tokens = network.generate(
        **inputs.to(network.device, network.dtype),
        max_new_tokens=max_new_tokens,
        num_beams=NUM_BEAMS,
        do_sample=False,
    )
    texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
    return texts
