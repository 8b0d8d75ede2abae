"""sdlora: LoRA fine-tuning of Stable Diffusion, chosen by measurement."""

__version__ = "0.1.0"
