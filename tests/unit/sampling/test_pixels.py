"""Pictures from pixels; sampling itself is compared with diffusers in the family's test."""

import numpy as np
import pytest
import torch

from sdlora.sampling.pixels import to_picture


def test_pixels_become_levels_by_rounding() -> None:
    """-1 is 0, 1 is 255, what lies outside is cut: 255 (p / 2 + 1 / 2)."""
    row = torch.tensor([-2.0, -1.0, -0.5, 0.5, 1.0, 3.0])
    picture = to_picture(row.expand(3, 1, 6), "a picture")
    assert picture.mode == "RGB"
    levels = np.asarray(picture)
    assert levels[0, :, 0].tolist() == [0, 0, 64, 191, 255, 255]  # 63.75 and 191.25
    assert (levels == levels[..., :1]).all()


def test_broken_pixels_are_an_error_that_names_the_picture() -> None:
    with pytest.raises(ValueError, match=r"^prompt 'x' \(seed 1\): the picture is NaN or infinite"):
        to_picture(torch.tensor([torch.nan, 0.0, 0.0])[:, None, None], "prompt 'x' (seed 1)")
