"""Keys that count in epochs, each with the one that counts the same in optimizer steps."""

EPOCH_KEYS = {
    "trainer.max_epochs": "trainer.max_steps",
    "sampling.every_n_epochs": "sampling.every_n_steps",
    "evaluation.every_n_epochs": "evaluation.every_n_steps",
    "checkpoint.every_n_epochs": "checkpoint.every_n_steps",
}
