"""The typed schema of ``train.py``: all groups, and checks across groups."""

from dataclasses import dataclass

from omegaconf import MISSING

from sdlora.config.checkpoint import CheckpointConfig
from sdlora.config.data import DataConfig
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.export import ExportConfig
from sdlora.config.logger import LoggerConfig
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.objective import ObjectiveConfig
from sdlora.config.optim import OptimConfig
from sdlora.config.rules import (
    require,
)
from sdlora.config.sampling import SamplingConfig
from sdlora.config.scheduler import SchedulerConfig
from sdlora.config.sweep import SweepConfig
from sdlora.config.trainer import TrainerConfig


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    """The whole config of ``train.py``."""

    seed: int = MISSING
    """Seed of all random draws; 0 is a seed."""
    resume: str | None = None
    """Run folder to resume; ``latest``: the one below ``outputs/`` that was started last."""
    resume_step: int | None = None
    """Step of the checkpoint to resume from; ``null``: the newest. What the run wrote after it is
    set aside in the run folder. >= 1."""
    from_lora: str | None = None
    """LoRA file of this project whose run is repeated: its header holds the config, and other
    overrides win over it."""
    check: bool = MISSING
    """Only check the adapters' layers, as far as the base is on this machine, and the data: decode
    every picture, write the data sheet, and stop."""
    run_dir: str = MISSING
    """Folder of the run; set by Hydra, change it with ``hydra.run.dir``."""
    model: ModelConfig = MISSING
    lora: LoraConfig = MISSING
    data: DataConfig = MISSING
    objective: ObjectiveConfig = MISSING
    optim: OptimConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = MISSING
    sampling: SamplingConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    logger: LoggerConfig = MISSING
    export: ExportConfig = MISSING
    sweep: SweepConfig = MISSING

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number in [0, 2**63)")
        require(
            self.resume_step is None or self.resume is not None,
            "resume_step",
            self.resume_step,
            "is a step of the run that resume= names; give resume=RUN_FOLDER, too",
        )
        is_streamed = self.data.source == "hub" and self.data.hub.streaming
        require(
            not (self.scheduler.per == "epoch" and is_streamed),
            "scheduler.per",
            "epoch",
            "a streamed set has no epochs of whole batches; use step",
        )
        require(
            self.optim.lora_plus_ratio is None
            or "lora" in self.lora.methods(self.lora.parts).values(),
            "optim.lora_plus_ratio",
            self.optim.lora_plus_ratio,
            "needs an adapter; set it to null where all weights train",
        )
        require(
            not self.evaluation.scales
            or self.lora.new_word.name is not None
            or "lora" in self.lora.methods(self.lora.parts).values(),
            "evaluation.scales",
            self.evaluation.scales,
            "all weights train, and only an adapter has a strength; leave it out",
        )
        require(
            not (self.optim.options.get("fused") and self.trainer.precision == "fp16"),
            "optim.options.fused",
            True,
            "takes the loss scale of fp16 out of the gradients after they are clipped; set it to "
            "false, or use trainer.precision=bf16",
        )
