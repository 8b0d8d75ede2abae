"""Loss weights of noise levels as functions of the SNR; pure tensors."""

import math

import torch
from torch import Tensor

DEBIASED_MOST_SNR = 1000.0
"""kohya's and OneTrainer's cap, for equal weights. In Stable Diffusion only t = 0 is above it."""


def min_snr_weight(snr: Tensor, prediction_type: str, *, gamma: float) -> Tensor:
    """Weight each sample's loss by its signal-to-noise ratio, capped at ``gamma``.

    The weight for x0-prediction, ``min(snr, gamma)``, divided by the factor that turns an x0 error
    into an error of the predicted quantity: ``snr`` for epsilon, ``snr + 1`` for v, 1 for x0.

    Args:
        snr: ``alpha_t**2 / sigma_t**2`` (a ratio, not decibels), shape ``[B]``; > 0 for epsilon,
            0 (zero-terminal SNR) is fine for v and x0, and weighs 0.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"`` (x0).
        gamma: The cap, > 0; 5 in the paper. ``inf`` switches it off for epsilon.

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.

    Raises:
        ValueError: If ``gamma`` is not positive or ``prediction_type`` is unknown.

    Source:
        Hang et al. 2023, arXiv:2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr_gamma={gamma}: must be > 0; 5 is the paper's, null is off")
    capped = torch.clamp(snr, max=gamma)
    if prediction_type == "epsilon":
        return capped / snr
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    return _of_x0(prediction_type, capped)


def debiased_weight(snr: Tensor, prediction_type: str) -> Tensor:
    """Weight each sample's loss by ``1 / sqrt(snr)``, so that noisy samples count more.

    The paper treats epsilon-prediction. For x0 the same weighting is ``sqrt(snr)``, as an epsilon
    error is ``snr`` times an x0 error. For v it is kohya's ``1 / (snr + 1)``, an even weight on x0
    errors: what v-models are trained with, and 1 at the end of a zero-terminal schedule, where
    the converted ``sqrt(snr) / (snr + 1)`` would be 0.

    Args:
        snr: Shape ``[B]``; > 0 for epsilon. Capped at ``DEBIASED_MOST_SNR``.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"`` (x0).

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.

    Raises:
        ValueError: If ``prediction_type`` is unknown.

    Source:
        Yu et al. 2023, arXiv:2310.08442; for v: kohya-ss/sd-scripts, apply_debiased_estimation.
    """
    capped = torch.clamp(snr, max=DEBIASED_MOST_SNR)
    if prediction_type == "epsilon":
        return capped.rsqrt()
    if prediction_type == "v_prediction":
        return 1 / (capped + 1)
    return _of_x0(prediction_type, capped.sqrt())


def p2_weight(snr: Tensor, prediction_type: str, *, gamma: float, k: float) -> Tensor:
    """Weight each sample's loss by ``1 / (k + snr)**gamma``: less where little noise is left.

    The paper's factor is the same for each prediction type.

    Args:
        snr: Shape ``[B]``, >= 0.
        prediction_type: Not used; all weightings have the same arguments.
        gamma: How strongly low noise levels are down-weighted, > 0; 1 in the paper.
        k: Bounds the weight of high noise levels, > 0; 1 in the paper.

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.

    Raises:
        ValueError: If ``gamma`` or ``k`` is not positive.

    Source:
        Choi et al. 2022, arXiv:2204.00227: ``lambda'_t = lambda_t / (k + SNR(t))**gamma``.
    """
    if not (gamma > 0 and k > 0):
        raise ValueError(f"p2_gamma={gamma}, p2_k={k}: both must be > 0; 1 and 1 are the paper's")
    return (k + snr) ** -gamma


def level_of(snr: Tensor) -> Tensor:
    """The level ``s`` of flow matching whose signal-to-noise ratio ``((1 - s) / s)**2`` this is."""
    return 1 / (1 + snr.sqrt())


def bell_weight(snr: Tensor, prediction_type: str) -> Tensor:
    """Weight levels of flow matching by a bell: most at ``s = 1/2``, nothing at both ends.

    ``exp(-2 (s - 1/2)^2) - exp(-1/2)``, divided by its mean over uniform levels.

    Args:
        snr: Shape ``[B]``, >= 0; infinite without noise.
        prediction_type: Not used; all weightings have the same arguments.

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.

    Source:
        DiffSynth-Studio's ``FlowMatchScheduler``, and ai-toolkit's "weighted", at 1000 levels.
    """
    s, edge = level_of(snr), math.exp(-0.5)
    mean = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5)) - edge
    return (torch.exp(-2 * (s - 0.5).square()) - edge) / mean


def table_weight(snr: Tensor, prediction_type: str, *, weights: tuple[float, ...]) -> Tensor:
    """Weight levels of flow matching by a table, linearly between its entries.

    Args:
        snr: Shape ``[B]``, >= 0; infinite without noise.
        prediction_type: Not used; all weightings have the same arguments.
        weights: At least two, at equal distances from ``s = 0`` to ``s = 1``; >= 0. Taken as they
            are: a mean of 1 keeps the size of the loss.

    Returns:
        Weights, shape ``[B]``, in ``snr``'s dtype and on its device.
    """
    table = torch.tensor(weights, dtype=snr.dtype, device=snr.device)
    place = level_of(snr) * (len(weights) - 1)
    below = place.long().clamp(max=len(weights) - 2)
    return torch.lerp(table[below], table[below + 1], place - below)


def _of_x0(prediction_type: str, weight: Tensor) -> Tensor:
    if prediction_type == "sample":
        return weight
    raise ValueError(f"prediction_type={prediction_type}: choose epsilon, v_prediction or sample")
