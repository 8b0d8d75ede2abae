"""Typed config -> the prompts, and how they are drawn."""

from sdlora.assembly.device import DTYPES
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import ConfigError
from sdlora.config.sampling import SamplingConfig
from sdlora.evaluation.evaluator import DrawSettings
from sdlora.evaluation.scoring import with_class_word
from sdlora.runtime.places import located
from sdlora.sampling.generate import Prompt, read_prompts
from sdlora.sampling.samplers import find_sampler


def draw_settings(
    config: SamplingConfig, evaluation: EvaluationConfig, resolution: int, precision: str
) -> DrawSettings:
    """How validation pictures are drawn."""
    return DrawSettings(
        prompts=prompts(config),
        num_preview=config.num_preview,
        negative_prompt=config.negative_prompt,
        sampler=config.sampler,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        resolution=resolution,
        batch_size=config.batch_size,
        precision=DTYPES[precision],
        prior_prompts=prior_prompts(config, evaluation),
    )


def check_sampling(config: SamplingConfig) -> None:
    """Check sampler name and prompt file."""
    try:
        find_sampler(config.sampler)
        prompts(config)
    except ValueError as error:  # names its argument; here that is a key of this group
        raise ConfigError(f"sampling.{error}") from error


def prompts(config: SamplingConfig) -> tuple[Prompt, ...]:
    """Every prompt of the file with every seed; without a file, every seed."""
    file = None if config.prompts is None else located(config.prompts)
    texts = [""] if file is None else read_prompts(file)[: config.num_prompts]
    after = range(max(config.seeds) + 1, max(config.seeds) + 1 + (config.num_seeds or 0))
    seeds = [*config.seeds, *after][: config.num_seeds or len(config.seeds)]
    return tuple(Prompt(config.prompt_prefix + text, seed) for text in texts for seed in seeds)


def prior_prompts(config: SamplingConfig, evaluation: EvaluationConfig) -> tuple[Prompt, ...]:
    """The first prompts that call the trigger word, with the class word instead.

    Raises:
        ConfigError: If they are wanted and no prompt calls it.
    """
    if not evaluation.prior_prompts:
        return ()
    words = evaluation.trigger_word, evaluation.class_word
    reworded = [(each, with_class_word(each.text, *words)) for each in prompts(config)]
    found = [Prompt(text, each.seed) for each, text in reworded if text != each.text]
    if not found:
        raise ConfigError(
            f"evaluation.trigger_word={evaluation.trigger_word}: in no prompt of "
            f"{config.prompts}; name the word that they call the person by"
        )
    return tuple(dict.fromkeys(found))[: evaluation.prior_prompts]
