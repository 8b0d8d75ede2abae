"""What the training step is measured on: a model, a size of picture and batch, a device."""

from dataclasses import dataclass

ROWS = ("floor", "ours", "ours, uncached", "tutorial", "library example")
"""What is measured of a case; ``steps`` and ``comparisons`` have the loops."""

NUM_PICTURES = 96
"""In the folder that is trained on: an epoch of it is a whole number of batches of 1 to 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training that every row does.

    Attributes:
        name: In tables, and on the command line.
        model: A name of ``conf/model``; all but ``tiny`` get random weights of the real shape.
        device: ``"cpu"`` or ``"cuda"``.
        side_px: Side of the pictures.
        batch_size: Pictures a step.
        precision: ``trainer.precision``: of the arithmetic, and of the frozen weights.
        rank: ``lora.r`` and ``lora.alpha``.
        trains_text: Whether the text encoder has a LoRA too; else it is frozen.
        checkpointing: ``trainer.gradient_checkpointing``.
        rows: Which of ``ROWS``.
    """

    name: str
    model: str
    device: str
    side_px: int
    batch_size: int
    precision: str
    rank: int
    trains_text: bool = False
    checkpointing: bool = False
    rows: tuple[str, ...] = ROWS

    @property
    def overrides(self) -> list[str]:
        """The case as arguments of ``train.py``; nothing is drawn or scored meanwhile."""
        return [
            f"model={self.model}",
            f"data.resolution={self.side_px}",
            f"data.batch_size={self.batch_size}",
            f"data.num_workers={8 if self.device == 'cuda' else 0}",
            f"lora.r={self.rank}",
            f"lora.alpha={self.rank}",
            f"lora.text_encoder.method={'lora' if self.trains_text else 'frozen'}",
            f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}",
            f"trainer.precision={self.precision}",
            f"trainer.gradient_checkpointing={str(self.checkpointing).lower()}",
            "trainer.max_steps=1000000",
            "optim.unet_lr=1e-4",
            "evaluation=none",
            "sampling.every_n_steps=0",
            "checkpoint.every_n_steps=0",
        ]


def _tiny(name: str, *, trains_text: bool) -> Case:
    """The default run's model, batch and rank."""
    return Case(
        name=name,
        model="tiny",
        device="cpu",
        side_px=64,
        batch_size=8,
        precision="fp32",
        rank=8,
        trains_text=trains_text,
    )


def _sd15_cpu(precision: str, rows: tuple[str, ...] = ROWS) -> Case:
    return Case(
        name=f"sd15_cpu_{precision}",
        model="sd15",
        device="cpu",
        side_px=128,
        batch_size=1,
        precision=precision,
        rank=32,
        rows=rows,
    )


def _gpu(model: str, side_px: int, batch_size: int, what: str = "") -> Case:
    has_checkpoints = what == "_checkpointing"
    rows = ROWS
    if model != "sd15":  # the tutorial is one of Stable Diffusion 1.5
        rows = tuple(row for row in ROWS if row != "tutorial")
    return Case(
        name=f"{model}_gpu_b{batch_size}{what}",
        model=model,
        device="cuda",
        side_px=side_px,
        batch_size=batch_size,
        precision="bf16",
        rank=32,
        trains_text=what == "_text",
        checkpointing=has_checkpoints,
        rows=("floor", "ours") if has_checkpoints else rows,
    )


GROUPS: dict[str, tuple[Case, ...]] = {
    "tiny": (_tiny("tiny_frozen", trains_text=False), _tiny("tiny_text", trains_text=True)),
    "sd15_cpu": (
        _sd15_cpu("bf16"),
        # a process each: more than three models in float32 would not fit into 24 GB
        _sd15_cpu("fp32", ("floor", "ours", "tutorial")),
    ),
    "sd15_gpu": (
        *(_gpu("sd15", 512, size) for size in (1, 2, 8, 32)),
        _gpu("sd15", 512, 2, "_text"),
        _gpu("sd15", 512, 1, "_checkpointing"),
    ),
    "sdxl_gpu": (
        *(_gpu("sdxl", 1024, size) for size in (1, 4)),
        _gpu("sdxl", 1024, 1, "_text"),
        _gpu("sdxl", 1024, 1, "_checkpointing"),
    ),
}
"""What stands in one table, by the name of ``--cases``."""


def chosen_cases(names: str) -> dict[str, list[Case]]:
    """The cases of a list such as ``tiny,sd15_gpu_b2``, by group.

    Raises:
        ValueError: Naming what is unknown, and all that is known.
    """
    wanted = {name: False for name in names.split(",")}
    found: dict[str, list[Case]] = {}
    for group, cases in GROUPS.items():
        for case in cases:
            for name in {group, case.name} & set(wanted):
                wanted[name] = True
                found.setdefault(group, []).append(case)
    unknown = [name for name, is_known in wanted.items() if not is_known]
    if unknown:
        known = ", ".join([*GROUPS, *(case.name for cases in GROUPS.values() for case in cases)])
        raise ValueError(f"--cases={unknown[0]}: unknown; choose of {known}")
    return found
