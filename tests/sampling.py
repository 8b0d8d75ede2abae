"""How tests draw: few steps, few pixels."""

from typing import Any

from sdlora.config.sampling import SamplingConfig


def sampling_config(**changed: Any) -> SamplingConfig:
    """Two steps of DDIM with guidance and a negative prompt, save for what is given."""
    chosen: dict[str, Any] = {
        "prompts": None,
        "prompt_prefix": "",
        "negative_prompt": "bad",
        "sampler": "ddim",
        "num_steps": 2,
        "guidance_scale": 3.0,
        "seeds": [0],
        "batch_size": 4,
        "every_n_steps": 0,
        "num_preview": 3,
    }
    return SamplingConfig(**{**chosen, **changed})
