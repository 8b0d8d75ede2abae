"""Loading of a transformers model and its processor from local files, whole or not at all."""

from pathlib import Path
from typing import Any

from sdlora.captioning.captioner import Compute


class CaptionerError(ValueError):
    """A captioner that cannot be loaded or used; the message gives reason and remedy."""


def load_network(auto_class: Any, folder: Path, compute: Compute) -> Any:
    """Load a network, frozen and in eval mode; no file of the model runs code.

    Args:
        auto_class: Its class, or an ``Auto`` class, of transformers.
        folder: Its files.
        compute: Its device and precision.

    Raises:
        CaptionerError: If it cannot be loaded whole.
    """
    try:
        network, info = auto_class.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=compute.dtype
        )
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise cannot_load(folder, error) from error
    lacking = sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])])
    if lacking:
        reason = ValueError(f"weights are missing or misshapen: {', '.join(lacking[:3])} ...")
        raise cannot_load(folder, reason)
    return network.eval().requires_grad_(False).to(compute.device)


def load_processor(folder: Path) -> Any:
    """Load a processor, whose pictures Pillow resizes: torchvision is not needed.

    Processors of Qwen-VL and its kin have a part for films, which torchvision alone provides; it is
    left out where torchvision is missing.

    Raises:
        CaptionerError: If its files are not there, or need another package.
    """
    from transformers import AutoProcessor

    try:
        try:
            return AutoProcessor.from_pretrained(folder, local_files_only=True)
        except ImportError as error:
            if "VideoProcessor" not in str(error):
                raise
            return _without_films(folder)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise cannot_load(folder, error) from error


def _without_films(folder: Path) -> Any:
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind: Any = PROCESSOR_MAPPING[type(config)]

    class PicturesOnly(kind):
        """The model's own processor, whose part for films may be missing."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return PicturesOnly(
        image_processor=AutoImageProcessor.from_pretrained(folder, local_files_only=True),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=settings.get("chat_template") or tokenizer.chat_template,
    )


def cannot_load(folder: Path, error: Exception) -> CaptionerError:
    """The error of a model that cannot be loaded."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return CaptionerError(
        f"--model: the files in {folder} cannot be loaded ({lines[0]}); fetch the model again, or "
        "choose another"
    )
