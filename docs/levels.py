"""``python docs/levels.py``: writes docs/levels.svg, the densities of training levels."""

from functools import partial
from pathlib import Path

import torch

from sdlora.diffusion.flow_schedule import FlowSchedule
from sdlora.diffusion.timesteps import Shape, TimestepSampling, by_tokens, timestep_sampling
from sdlora.runtime.files import write_text

PAGE = Path(__file__).with_suffix(".svg")
DRAWS, BINS = 400_000, 50
WIDTH, HEIGHT, LEFT, TOP = 720, 320, 50, 20
HIGHEST = 3.5
TOKENS = (1024 // 16) ** 2

AS_TRAINED = partial(by_tokens, points=((256, 0.5), (4096, 1.15)))
SHAPE = Shape(mode_scale=1.29)
CURVES: dict[str, tuple[str, TimestepSampling]] = {
    "uniform (diffusers: klein, Krea 2)": ("#888888", timestep_sampling("uniform", shape=SHAPE)),
    "uniform, shift 3 (diffusers: Z-Image)": (
        "#c0392b",
        timestep_sampling("uniform", shape=SHAPE, shift=lambda tokens: 3.0),
    ),
    "logit-normal (OneTrainer: Z-Image)": (
        "#2471a3",
        timestep_sampling("logit_normal", shape=SHAPE),
    ),
    "logit-normal, by tokens, 1024 px (OneTrainer: klein)": (
        "#1e8449",
        timestep_sampling("logit_normal", shape=SHAPE, shift=AS_TRAINED),
    ),
    "mode 1.29 (SD 3)": ("#b9770e", timestep_sampling("mode", shape=SHAPE)),
}


def density(sampling: TimestepSampling) -> list[float]:
    """Density in each of ``BINS`` equal parts of [0, 1], from evenly spread draws."""
    u = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    levels = sampling.sample(FlowSchedule(), u, TOKENS)
    counts = torch.histc(levels, BINS, 0, 1)
    found: list[float] = (counts * BINS / DRAWS).tolist()
    return found


def picture() -> str:
    """The plot as SVG."""
    inner, height = WIDTH - LEFT - 20, HEIGHT - TOP - 40

    def place(s: float, value: float) -> str:
        return f"{LEFT + s * inner:.1f},{TOP + height * (1 - value / HIGHEST):.1f}"

    lines = []
    for number in range(5):
        x = LEFT + number / 4 * inner
        lines.append(
            f'<text x="{x:.0f}" y="{HEIGHT - 22}" text-anchor="middle">{number / 4}</text>'
        )
    for value in range(4):
        start, end = place(0, value), place(1, value)
        lines.append(f'<polyline points="{start} {end}" stroke="#dddddd"/>')
        lines.append(
            f'<text x="{LEFT - 8}" y="{start.partition(",")[2]}" text-anchor="end">{value}</text>'
        )
    middle = LEFT + inner / 2
    lines.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">level s</text>')
    for row, (name, (color, sampling)) in enumerate(CURVES.items()):
        points = (place((n + 0.5) / BINS, value) for n, value in enumerate(density(sampling)))
        lines.append(f'<polyline points="{" ".join(points)}" stroke="{color}" stroke-width="2"/>')
        lines.append(
            f'<text x="{LEFT + 12}" y="{TOP + 14 + 17 * row}" fill="{color}">{name}</text>'
        )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="13" fill="none"'
    body = "\n".join(line.replace("<text ", '<text stroke="none" ', 1) for line in lines)
    body = body.replace('text-anchor="end">', 'text-anchor="end" fill="#444444">')
    body = body.replace('text-anchor="middle">', 'text-anchor="middle" fill="#444444">')
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{paper}\n{body}\n</svg>\n'


if __name__ == "__main__":
    write_text(PAGE, picture())
