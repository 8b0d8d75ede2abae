"""The typed schema of ``model.recommended.*``: the numbers that are right for a model."""

from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config.rules import require_count, require_rate


@dataclass(slots=True, kw_only=True)
class RecommendedConfig:
    """What suits a model; keys of other groups take their values from here unless they are set.

    Nothing reads these but the files of ``conf/``, by interpolation, and the notes on values that
    do not suit the model.
    """

    resolution: int = MISSING
    """Side of the pictures that the model was trained on, in pixels, for ``data.resolution``;
    >= 1."""
    batch_size: int = MISSING
    """Pictures in one forward pass, for ``data.batch_size``; >= 1."""
    val_fraction: float | None = MISSING
    """Share of the pictures that is held out, for ``data.val_fraction``; [0, 1), ``null``: a tenth
    of 20 or more."""
    caption_dropout: float = MISSING
    """Probability of an empty caption, for ``data.captions.dropout``; [0, 1)."""
    max_steps: int = MISSING
    """Optimizer steps of a run, for ``trainer.max_steps``; >= 1."""
    precision: str = MISSING
    """Compute precision, for ``trainer.precision``, and ``precision`` of evaluate.py: fp32, bf16,
    fp16 or auto."""
    unet_lr: float = MISSING
    """AdamW's learning rate of the denoiser, for ``optim.unet_lr``; > 0. Optimizers whose rates are
    of another size multiply it, or have one of their own."""
    text_encoder_lr: float = MISSING
    """The same of the text encoders, for ``optim.text_encoder_lr``; > 0. Without effect where none
    trains."""
    new_word_lr: float = MISSING
    """The same of a new word's embeddings, for ``optim.new_word_lr``; > 0."""
    min_snr_gamma: float | None = MISSING
    """Cap of the min-SNR loss weight, for ``objective.min_snr_gamma``; > 0, ``null``: none."""
    timesteps: str = MISSING
    """Distribution of training noise levels, for ``objective.timesteps.name``."""
    shift: str = MISSING
    """Their shift, for ``objective.timesteps.shift``: ``none``, ``constant`` or ``tokens``."""
    shift_factor: float = MISSING
    """Factor of a constant shift, for ``objective.timesteps.shift_factor``; > 0."""
    r: int = MISSING
    """Rank of an adapter, for ``lora.r``, which ``lora.alpha`` follows; >= 1."""
    text_encoder_method: str = MISSING
    """How text encoders train beside an adapter on the denoiser, for ``lora.text_encoder.method``:
    ``lora`` or ``frozen``."""
    prompts: str | None = MISSING
    """Prompts of validation pictures, for ``sampling.prompts``: ``captions``, or a text file;
    ``null`` for a model that takes none."""
    sampler: str = MISSING
    """For ``sampling.sampler``: ddim, pndm, euler, ..."""
    num_steps: int = MISSING
    """Denoising steps a picture, for ``sampling.num_steps``; >= 1."""
    guidance_scale: float = MISSING
    """Classifier-free guidance, for ``sampling.guidance_scale``; 1 is off."""
    draw_batch_size: int = MISSING
    """Pictures drawn in one batch, for ``sampling.batch_size``; >= 1."""
    draw_every_n_steps: int = MISSING
    """Optimizer steps between validation pictures, for ``sampling.every_n_steps``; 0: only at the
    end."""
    score_every_n_steps: int = MISSING
    """Optimizer steps between scores, for ``evaluation.every_n_steps``; 0: only at the end."""
    face: str = MISSING
    """Scorer of faces, for ``evaluation.face.name``: ``tiny_face``, ``deepface`` or ``none``."""
    face_detector: str = MISSING
    """deepface's detector for cuts around faces, for ``data.face_detector``: opencv, yunet, ..."""
    attributes: str = MISSING
    """What reads whether prompts are followed, for ``evaluation.attributes.name``:
    ``tiny_attributes`` or ``none``."""
    clip_model: str = MISSING
    """CLIP that scores how pictures follow prompts, for ``evaluation.clip.options.model``:
    ``tiny``, a folder or a Hub id."""
    image_model: str = MISSING
    """What compares pictures, for ``evaluation.image.options.model``: ``tiny``, a folder or a Hub
    id of a CLIP or DINOv2."""
    select: str = MISSING
    """Score that the best checkpoint is chosen by, for ``evaluation.select``."""

    def __post_init__(self) -> None:
        for name in ("resolution", "batch_size", "max_steps", "r", "num_steps", "draw_batch_size"):
            require_count(f"model.recommended.{name}", getattr(self, name))
        for name in ("unet_lr", "text_encoder_lr", "new_word_lr", "shift_factor"):
            require_rate(f"model.recommended.{name}", getattr(self, name))
