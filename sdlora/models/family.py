"""The interface of a family of diffusion models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from sdlora.diffusion.noise_schedule import changed_schedule
from sdlora.models.conditioning import Conditioning, moved
from sdlora.models.drawing import Drawing
from sdlora.models.tokens import Tokens, tokenize
from sdlora.runtime.devices import send

if TYPE_CHECKING:
    from sdlora.models.block_stream import BlockStream
    from sdlora.models.drawing_base import DrawingBase


class Family(nn.Module, ABC):
    """The parts of a diffusion model, with the operations that training and drawing need.

    Initially all weights are frozen and in eval mode.

    Args:
        denoiser: The network that predicts the target.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        tokenizers: Captions -> token ids, one for each text encoder.

    Attributes:
        denoiser_name: Name of the denoiser: its attribute here, its folder in the diffusers
            layout, and its key in the config.
        patch_size: Side of the square of latents that is one token of the denoiser.
        noise_schedule_config: The noise schedule of training and sampling.
        max_chunks: Length of every caption, in chunks of the tokenizer's length.
        waiting: Names of parts that lie in main memory while they are not called.
        stream: Brings the denoiser's blocks to the device one by one; ``None``: all are there.
        drawing_base: What draws in place of the trained base; ``None``: that base.
    """

    denoiser_name: ClassVar[str] = "unet"
    patch_size: ClassVar[int] = 1

    def __init__(
        self,
        denoiser: Any,
        noise_schedule_config: Mapping[str, Any],
        tokenizers: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        setattr(self, self.denoiser_name, denoiser)
        self.tokenizers = tuple(tokenizers)
        self.noise_schedule_config = dict(noise_schedule_config)
        self._own_schedule_config = self.noise_schedule_config
        self.max_chunks = 1
        self.waiting: frozenset[str] = frozenset()
        self.stream: BlockStream | None = None
        self.drawing_base: DrawingBase | None = None
        self._called: frozenset[str] = frozenset()
        self._device: torch.device | None = None
        self._known: dict[bytes, Conditioning] | None = None

    @property
    def denoiser(self) -> Any:
        """The network that predicts the target."""
        return getattr(self, self.denoiser_name)

    @property
    @abstractmethod
    def text_encoders(self) -> dict[str, nn.Module]:
        """Text encoders by part name; empty for an unconditional model."""

    @abstractmethod
    def encode_prompts(self, token_ids: Tensor) -> Conditioning:
        """Conditioning of prompts, one tensor for each, so that it is cached as one.

        Args:
            token_ids: Of all tokenizers side by side, ``[B, tokenizers * chunks * L]``, int64.

        Returns:
            ``[B, rows, D]``, or ``[rows, D]`` of each prompt where their lengths differ; the
            meaning of rows is the family's own.
        """

    @abstractmethod
    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Any, sizes: Tensor | None = None
    ) -> Tensor:
        """The denoiser's prediction at noise level ``t``, float32, shaped like ``z_t``.

        Args:
            z_t: Noisy latents (pixels, where there is no VAE), ``[B, C, h, w]``.
            t: Noise levels of the family's schedule, ``[B]``.
            conditioning: Output of ``encode_prompts``.
            sizes: Of each picture, in pixels: its own height and width, top and left of the cut,
                height and width of the cut; ``[B, 6]``. Only some families use it.
        """

    @abstractmethod
    def prompt_arguments(self, conditioning: Any) -> dict[str, Any]:
        """The conditioning as arguments of the diffusers pipeline (``prompt_embeds``, ...)."""

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline that shares these very modules (no copies)."""

    @property
    @abstractmethod
    def latent_scale(self) -> int:
        """Pixels per latent along a side (8 for SD)."""

    @property
    @abstractmethod
    def encoding_dtype(self) -> torch.dtype:
        """Dtype in which encoded pictures are stored without loss."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pictures for the cache.

        Args:
            pixels: Shape ``[B, 3, H, W]``, in [-1, 1].

        Returns:
            Moments for :meth:`latents`, ``[B, M, h, w]``.
        """

    @abstractmethod
    def posterior_shape(self, moments: Tensor) -> tuple[int, ...]:
        """Shape of the draws that :meth:`latents` takes for one picture of ``moments``."""

    @abstractmethod
    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Input of the denoiser before noising, float32.

        Args:
            moments: Output of ``encode_images``, ``[B, M, h, w]``.
            eps: Standard normal draws, ``[B, *posterior_shape]``; 0 gives the posterior's mean.

        Returns:
            ``[B, C, h, w]``, scaled as the noise schedule expects it.
        """

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Any]:
        """Texts as arguments of the diffusers pipeline."""
        return self.prompt_arguments(self.known_prompts(self.tokenize(texts).ids))

    def keep_prompts(self, keep: bool) -> None:
        """Whether :meth:`known_prompts` keeps what it encodes; whatever is kept is forgotten.

        Only for text encoders that do not change, in a run whose prompts all have one precision.
        """
        self._known = {} if keep else None

    @property
    def keeps_prompts(self) -> bool:
        """Whether prompts that come again are encoded once."""
        return self._known is not None

    def known_prompts(self, token_ids: Tensor) -> Conditioning:
        """:meth:`encode_prompts` of prompts that come again, encoded once if they are kept.

        Kept by the whole batch, on which the last bits depend, and in main memory.

        Args:
            token_ids: As :meth:`encode_prompts` takes them, on the CPU.
        """
        if self._known is None:
            with self.called(*self.text_encoders):
                return self.encode_prompts(send(token_ids, self.device))
        with _disable_current_modes():  # a step is estimated on tensors without content
            key = token_ids.numpy().tobytes()
        if key not in self._known:
            with torch.no_grad(), self.called(*self.text_encoders):
                found = self.encode_prompts(send(token_ids, self.device))
            self._known[key] = moved(found, torch.device("cpu"))
        return moved(self._known[key], self.device)

    @property
    def device(self) -> torch.device:
        """The device of the computation, where parts are when they are called."""
        found: torch.device = self._device or next(self.denoiser.parameters()).device
        return found

    def place(self, device: torch.device | None, waiting: Collection[str] = ()) -> Self:
        """Put the model on a device, except parts that wait in main memory until they are called.

        They wait until the next call of this, whatever moves the model in between. Parts move as a
        whole and by :meth:`called` alone: accelerate's hooks, which move a part when its forward
        runs, leave it on two devices if memory runs out in between.

        Args:
            device: The device; ``None``: main memory, as it was loaded.
            waiting: Names of the parts that wait.
        """
        self._device, self.waiting = device, frozenset(waiting)
        if self.stream is not None:
            self.stream.forget()
        self._send_away(self.waiting)
        return self.to(device or "cpu")

    def stream_blocks(self, on: bool = True) -> None:
        """Keep the denoiser's frozen blocks in main memory; each comes when it is called.

        The denoiser must lie in main memory when that begins.
        """
        from sdlora.models.block_stream import BlockStream

        if self.stream is not None:
            self.stream.close()
        self.stream = BlockStream(self.denoiser, lambda: self.device) if on else None

    @contextmanager
    def called(self, *names: str) -> Iterator[None]:
        """Have those of the named parts on the device that wait, inside the block; may be nested.

        Raises:
            torch.OutOfMemoryError: If there is not enough memory; they wait again then.
        """
        coming = self.waiting.intersection(names) - self._called
        self._called |= coming
        try:
            for name in coming:
                self.get_submodule(name).to(self.device)
            yield
        finally:
            self._called -= coming
            self._send_away(coming)

    @contextmanager
    def in_main_memory(self) -> Iterator[Self]:
        """Have all of the model in main memory, inside the block."""
        device, waiting = self.device, self.waiting
        self.place(torch.device("cpu"))
        try:
            yield self
        finally:
            self.place(device, waiting)

    def _send_away(self, names: Collection[str]) -> None:
        for name in names:
            self.get_submodule(name).to("cpu")
        if names and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast what does not wait: Lightning puts all that it is given on its device."""
        with nullcontext() if self.stream is None else self.stream.left_out():
            for name, part in self.named_children():
                if name not in self.waiting or name in self._called:
                    part._apply(fn, recurse)
        return self

    def drawing(self) -> Drawing:
        """How the diffusers pipeline is called."""
        return Drawing(encode=self.encode_texts, dtype=self.denoiser_dtype, device=self.device)

    @property
    def denoiser_dtype(self) -> torch.dtype:
        """Dtype of the denoiser's inputs; here a UNet's."""
        return input_dtype(self.denoiser)

    def num_tokens(self, z: Tensor) -> int:
        """Image tokens of the denoiser for latents ``[B, C, h, w]``: those of a whole picture."""
        return int(z.shape[-2] * z.shape[-1]) // self.patch_size**2

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Trainable parts by name, the denoiser first."""
        return {self.denoiser_name: self.denoiser, **self.text_encoders}

    @property
    def resolution_step(self) -> int:
        """Sides of training pictures, in pixels, must be a multiple of this."""
        return int(self.latent_scale * 2 ** (len(self.denoiser.config.block_out_channels) - 1))

    @property
    def native_resolution_px(self) -> int:
        """The side that the denoiser was trained on, in pixels."""
        return int(self.denoiser.config.sample_size) * self.latent_scale

    def change_noise_schedule(self, prediction_type: str | None, zero_terminal_snr: bool) -> None:
        """Change the noise schedule of training and sampling; see ``changed_schedule``."""
        self.noise_schedule_config = changed_schedule(
            self._own_schedule_config, prediction_type, zero_terminal_snr
        )

    @contextmanager
    def own_noise_schedule(self) -> Iterator[None]:
        """Use the model's original noise schedule, inside the block."""
        changed, self.noise_schedule_config = self.noise_schedule_config, self._own_schedule_config
        try:
            yield
        finally:
            self.noise_schedule_config = changed

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Encode captions, padded or cut to ``max_chunks`` times the tokenizer's length."""
        return tokenize(self.tokenizers, captions, self.max_chunks)


def input_dtype(unet: Any) -> torch.dtype:
    """Input dtype of a UNet: that of its first layer.

    diffusers' ``unet.dtype`` is the same but iterates over every module: 21 ms a step for SDXL.
    """
    found: torch.dtype = unet.conv_in.weight.dtype
    return found
