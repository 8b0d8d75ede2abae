"""Unit feature vectors of pictures, by a transformers vision model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdlora.evaluation.clip_metric import TINY_CLIP, load_clip


class ImageFeatures:
    """Embeds pictures with CLIP (its projected picture embedding) or DINOv2 (its CLS token).

    Args:
        model: A local folder in Hugging Face layout, a hub id, or ``"tiny"`` for the CLIP of the
            drawn world that the package ships. A CLIP is recognised by its config; any other must
            be a vision model whose first token represents the picture.
        device: Where it runs.
        batch_size: Pictures in a batch, >= 1.

    Raises:
        ValueError: If the model cannot be loaded whole, or is no vision model.
    """

    def __init__(
        self,
        model: str | Path = "facebook/dinov2-base",
        device: torch.device | str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1.")
        where = TINY_CLIP if model == "tiny" else model
        load = _load_clip if _model_type(where) == "clip" else _load_vision
        self._network, self._processor, self._embed = load(where)
        self._network.to(device)
        self._device = torch.device(device)
        self._batch_size = batch_size

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures of any size.

        Returns:
            Unit rows, ``[n, D]``, float32, on the CPU; ``[0, 1]`` of no pictures.

        Raises:
            ValueError: If a vector is zero, NaN or infinite.
        """
        rows: list[Tensor] = []
        for start in range(0, len(images), self._batch_size):
            chunk = [image.convert("RGB") for image in images[start : start + self._batch_size]]
            pixels = self._processor(images=chunk, return_tensors="pt")["pixel_values"]
            rows.append(self._embed(pixels.to(self._device)).float().cpu())
        if not rows:
            return torch.zeros(0, 1)
        vectors = torch.cat(rows)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        broken = ~(torch.isfinite(lengths) & (lengths > 0))
        if broken.any():
            raise ValueError(
                f"features of pictures {broken.nonzero().flatten().tolist()} are zero, NaN or "
                "infinite; check the model's weights."
            )
        return F.normalize(vectors, dim=1)


Loaded = tuple[Any, Any, Callable[[Tensor], Tensor]]


def _model_type(model: str | Path) -> str:
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(model, local_files_only=True).model_type)
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from error


def _load_clip(model: str | Path) -> Loaded:
    network, processor = load_clip(model)
    return network, processor.image_processor, network.get_image_features


def _load_vision(model: str | Path) -> Loaded:
    from transformers import AutoImageProcessor, AutoModel

    try:
        loaded: Any = AutoModel.from_pretrained(
            model, local_files_only=True, output_loading_info=True
        )
        network, info = loaded
        if lacking := sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])]):
            raise ValueError(f"weights are missing or misshapen: {', '.join(lacking[:3])} ...")
        if network.main_input_name != "pixel_values":
            raise ValueError(f"it is a {network.config.model_type} model, which reads no pictures")
        processor = AutoImageProcessor.from_pretrained(model, local_files_only=True)
    except (ImportError, OSError, ValueError) as error:
        raise _cannot_load(model, error) from error
    network.eval().requires_grad_(False)

    def first_token(pixels: Tensor) -> Tensor:
        output: Tensor = network(pixels.to(network.dtype)).last_hidden_state[:, 0]
        return output

    return network, processor, first_token


def _cannot_load(model: str | Path, error: Exception) -> ValueError:
    return ValueError(
        f"vision model {str(model)!r} cannot be loaded ({str(error).splitlines()[0]}); give a "
        "local folder in Hugging Face layout."
    )
