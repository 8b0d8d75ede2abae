"""CLIP score: agreement of pictures with their prompts, 100 * cosine."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.multimodal import CLIPScore

from sdlora.runtime.places import ASSETS

TINY_CLIP = ASSETS / "tiny-clip"


class ClipFeatures(nn.Module):
    """A transformers CLIP model whose features are tensors, as torchmetrics expects them.

    transformers 5 returns an output object where torchmetrics 1.9 calls ``.norm``
    (torchmetrics issue 3407).

    Args:
        model: A ``transformers.CLIPModel``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.requires_grad_(False)  # torchmetrics calls it with gradients on

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected picture embeddings, ``[n, D]``."""
        return _tensor(self.model.get_image_features(pixel_values.to(self.model.dtype)))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Projected text embeddings, ``[n, D]``."""
        return _tensor(self.model.get_text_features(input_ids, attention_mask=attention_mask))


class CuttingProcessor:
    """A CLIP processor that cuts long prompts before the end token, and reports the cut words.

    torchmetrics would cut the end token off, at which CLIP reads the text's embedding.

    Args:
        image_processor: A ``transformers.CLIPImageProcessorPil``.
        tokenizer: A ``transformers.CLIPTokenizer``.
        max_tokens: Length of the text encoder, start and end token included.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, max_tokens: int) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, *, return_tensors: str, padding: bool, **inputs: Any) -> Mapping[str, Any]:
        """Prepare ``text=`` (a list) or ``images=`` (a list of uint8 ``[3, H, W]``)."""
        if "text" not in inputs:
            return self.image_processor(return_tensors=return_tensors, **inputs)
        for text in inputs["text"]:
            ids = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
            if len(ids) > self.max_tokens:
                lost = self.tokenizer.decode(ids[self.max_tokens - 1 : -1])
                warnings.warn(
                    f"CLIP score reads {self.max_tokens} tokens of a prompt; not scored: {lost!r}",
                    stacklevel=2,
                )
        return self.tokenizer(
            inputs["text"],
            return_tensors=return_tensors,
            padding=padding,
            truncation=True,
            max_length=self.max_tokens,
        )


class ClipScore(CLIPScore):
    """torchmetrics' CLIP score over pictures and prompts; higher is closer.

    ``compute()`` is the mean of 100 * cosine over all pictures, 0 if that is negative. Calling the
    metric with one picture also gives that picture's own score.

    Args:
        model: A local folder in Hugging Face layout, a hub id, or ``"tiny"`` for the scorer of the
            drawn world that the package ships.
        device: Where it runs.

    Raises:
        ValueError: If the model cannot be loaded whole, or is no CLIP.
    """

    full_state_update = False  # so that a call adds its pictures once, and embeds them once

    def __init__(
        self, model: str | Path = "openai/clip-vit-base-patch32", device: torch.device | str = "cpu"
    ) -> None:
        loaded: Any = load_clip(TINY_CLIP if model == "tiny" else model)
        super().__init__(model_name_or_path=lambda: loaded, sync_on_compute=False)
        self._model_device = torch.device(device)
        self.to(device)

    def update(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:  # type: ignore[override]
        """Add pictures and their prompts, one for each."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts; give one each.")
        pixels = [torch.from_numpy(np.array(image.convert("RGB"))) for image in images]
        source = [p.permute(2, 0, 1).to(self._model_device) for p in pixels]  # uint8 [3, H, W]
        super().update(source, list(prompts))


def load_clip(model: str | Path) -> tuple[ClipFeatures, CuttingProcessor]:
    """Load a CLIP model and its processor.

    Args:
        model: A local folder in Hugging Face layout, or a Hub id that is in the cache. Code in it
            is never run.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        ValueError: If it cannot be loaded, has weights missing, or is no CLIP.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        if config.model_type != "clip":
            raise ValueError(f"it is a {config.model_type} model, not clip")
        loaded: Any = CLIPModel.from_pretrained(
            model, local_files_only=True, output_loading_info=True
        )
        network, info = loaded
        if lacking := sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])]):
            raise ValueError(f"weights are missing or misshapen: {', '.join(lacking[:3])} ...")
        image_processor = CLIPImageProcessorPil.from_pretrained(model, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"CLIP model {str(model)!r} cannot be loaded ({reason}); give a local folder in "
            "Hugging Face layout."
        ) from error
    max_tokens = network.config.text_config.max_position_embeddings
    processor = CuttingProcessor(image_processor, tokenizer, max_tokens)
    return ClipFeatures(network).eval(), processor


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output
