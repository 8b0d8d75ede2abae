"""A random recognition network where deepface looks for its weights: the path, not the identity."""

from pathlib import Path

import torch


def write_weights(home: Path) -> None:
    """Write a random GhostFaceNet; ``DEEPFACE_HOME`` and the backend must be set.

    Its batch norms take their statistics from noise; with those of an untrained network it would
    give all pictures nearly one embedding.
    """
    from deepface.models.facial_recognition.pytorch import GhostFaceNet

    folder = home / ".deepface" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = GhostFaceNet.base_model().train()
        for module in network.modules():
            if hasattr(module, "running_mean"):
                module.momentum = None  # the mean of all batches
        for _ in range(3):
            shades = torch.rand(8, 3, 7, 7)
            network(torch.nn.functional.interpolate(shades, (112, 112), mode="bilinear"))
        torch.save(network.state_dict(), folder / "ghostfacenet_v1.pth")
