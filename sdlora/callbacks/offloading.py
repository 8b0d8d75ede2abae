"""What no step calls waits in main memory while the model trains."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from sdlora.models.offload import Offload


class OffloadBetweenSteps(Callback):
    """Sends away what Lightning, or a callback before this one, has brought to the device.

    Args:
        offload: The parts; after the training they stay where they are.
    """

    def __init__(self, offload: Offload) -> None:
        self._offload = offload

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Lightning has put the whole model on the device."""
        self._offload.send_away()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """A picture may have been drawn after this step."""
        self._offload.send_away()
