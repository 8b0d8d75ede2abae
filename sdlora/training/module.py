"""The LightningModule: the training step of a diffusion model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sdlora.adapters.strength import disabled
from sdlora.data.batches.dataset import Batch
from sdlora.diffusion.objective import Objective
from sdlora.models.conditioning import Conditioning, repeated
from sdlora.models.family import Family
from sdlora.runtime.devices import send
from sdlora.runtime.randomness import derive_seed, normal, uniform


class TrainingError(RuntimeError):
    """Training that cannot continue; the message gives step and remedy."""


class MemoryUsedUpError(TrainingError):
    """Memory that ran out in a step; the run may continue with settings that need less."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Prior preservation without class pictures: the bare base is the teacher.

    On the noisy sample of each step, and with the class prompt, the adapted model should predict
    what the model without adapters does.

    Attributes:
        token_ids: The class prompt's, ``[1, L]``, int64.
        weight: Weight of the prior loss, > 0.
    """

    token_ids: Tensor
    weight: float


class DiffusionModule(lightning.LightningModule):
    """Trains the parameters of a model family that require gradients on the diffusion loss.

    Args:
        family: The model's parts; parameters that require gradients are trained.
        objective: Target and loss, with the noise schedule.
        make_optimizer: Trained parameters by part (``unet``, ``text_encoder``, ...) and name ->
            optimizer.
        make_schedule: Optimizer -> learning-rate schedule, stepped once an optimizer step.
        seed: Every random draw is a function of it and of the sample's global index.
        check_every_n_steps: Interval at which the loss is read from a GPU and averaged over
            processes: that of the points of the curve.
        teacher: Prior preservation by the base itself; ``None``: off.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        make_optimizer: Callable[[Mapping[str, Mapping[str, nn.Parameter]]], Optimizer],
        make_schedule: Callable[[Optimizer], LRScheduler],
        seed: int,
        check_every_n_steps: int = 1,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.objective = objective
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.seed = seed
        self.check_every_n_steps = check_every_n_steps
        self.teacher = teacher

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: draw (t, eps), form z_t, regress the target (DDPM, Algorithm 1)."""
        torch.manual_seed(derive_seed(self.seed, "dropout", int(batch.sample_index[0])))
        z_0 = self.latents(batch)  # [B, C, h, w] fp32, scaled
        conditioning = self.conditioning(batch)  # [B, L, D]
        t = self.timesteps(batch, z_0)  # [B]
        eps, eps_in = self.noise(batch, z_0)  # the same, unless the input is perturbed
        z_t = self.objective.noise.add(z_0, eps_in, t)  # fp32
        target = self.objective.target(z_0, eps, t)
        prediction = self.family.denoise(z_t, t, conditioning, batch.sizes)
        loss = self.objective.loss(prediction, target, t, batch.weights, batch.mask)
        if self.teacher is not None:
            prior = self.prior_loss(self.teacher.token_ids, z_t, t, batch.sizes)
            loss = loss + self.teacher.weight * prior
        self._note(loss, batch)
        return loss * batch.share  # 1 unless the window has short batches

    def prior_loss(
        self, token_ids: Tensor, z_t: Tensor, t: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """Loss of the adapted model against the bare base on the class prompt; a scalar."""
        with torch.no_grad(), disabled(*self.family.parts.values()):
            prompt = repeated(self.family.known_prompts(token_ids), len(z_t))
            target = self.family.denoise(z_t, t, prompt, sizes)
        with torch.set_grad_enabled(self._trains_text):
            prompt = repeated(self.family.known_prompts(token_ids), len(z_t))
        return self.objective.loss(self.family.denoise(z_t, t, prompt, sizes), target, t)

    def encode_prompts(self, precision: torch.dtype) -> None:
        """Encode the teacher's prompt as the steps will, where the model keeps it."""
        if self.teacher is not None:
            device = self.family.device
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                self.family.known_prompts(self.teacher.token_ids)

    def latents(self, batch: Batch) -> Tensor:
        """Scaled latents, sampled from the posterior; ``[B, C, h, w]``, float32."""
        moments = batch.moments
        if moments is None:
            assert batch.pixels is not None, "a batch holds pixels or cached moments"
            moments = self.family.encode_images(batch.pixels)
        shape = self.family.posterior_shape(moments)
        eps = normal(shape, self.seed, "posterior", batch.sample_index)
        return self.family.latents(moments, send(eps, moments.device))

    def timesteps(self, batch: Batch, z_0: Tensor) -> Tensor:
        """A noise level for each sample, ``[B]``: a timestep, or a level of flow matching."""
        u = uniform(self.seed, "timestep", batch.sample_index)
        num_tokens = self.family.num_tokens(z_0)
        return send(
            self.objective.timesteps.sample(self.objective.noise, u, num_tokens), z_0.device
        )

    def noise(self, batch: Batch, z_0: Tensor) -> tuple[Tensor, Tensor]:
        """The noise of the target and of the input, each ``[B, C, h, w]``, float32."""
        drawn = self.objective.training_noise
        eps = send(drawn.eps(z_0.shape[1:], self.seed, batch.sample_index), z_0.device)
        return eps, drawn.perturbed(eps, self.seed, batch.sample_index)

    def conditioning(self, batch: Batch) -> Conditioning:
        """Embeddings of the captions, cached if no text encoder trains."""
        if batch.embeddings is not None:
            return batch.embeddings
        with torch.set_grad_enabled(self._trains_text):
            return self.family.encode_prompts(batch.token_ids)

    @property
    def _trains_text(self) -> bool:
        return any(self.trained_parameters(part) for part in self.family.text_encoders)

    def trained_parameters(self, part: str) -> dict[str, nn.Parameter]:
        """Parameters of one part (``unet``, ``text_encoder``) that require gradients, by name."""
        return {
            name: parameter
            for name, parameter in self.family.parts[part].named_parameters()
            if parameter.requires_grad
        }

    def all_trained_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter as ``part.name``."""
        return {
            f"{part}.{name}": parameter
            for part in self.family.parts
            for name, parameter in self.trained_parameters(part).items()
        }

    def configure_optimizers(self) -> Any:
        """Optimizer over all trained parts, and its schedule, stepped every optimizer step."""
        parts = {part: self.trained_parameters(part) for part in self.family.parts}
        optimizer = self.make_optimizer(parts)
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm over all trained parameters, and log it before clipping."""
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        largest = float("inf") if gradient_clip_val is None else gradient_clip_val
        norm = nn.utils.clip_grad_norm_(parameters, largest)
        self.log("train/grad_norm", norm)

    def on_fit_start(self) -> None:
        """Set training mode (dropout) in the parts that train, eval mode in the others."""
        for module in self.family.children():
            module.train(any(parameter.requires_grad for parameter in module.parameters()))

    def state_dict(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The trained weights only: checkpoints do not contain the base model."""
        trained = self.all_trained_parameters()
        return {name: parameter.detach() for name, parameter in trained.items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> None:
        """Restore trained weights; names and shapes must all match.

        Raises:
            TrainingError: Listing what is missing, unexpected or of another shape.
        """
        trained = self.all_trained_parameters()
        differing = set(trained) ^ set(state_dict)
        differing |= {
            name
            for name in set(trained) & set(state_dict)
            if trained[name].shape != state_dict[name].shape
        }
        if differing:
            names = ", ".join(sorted(differing)[:5])
            raise TrainingError(
                f"the checkpoint's weights do not fit this model: {len(differing)} differ "
                f"({names}); resume with the settings of the run's start"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state_dict[name])

    def _note(self, loss: Tensor, batch: Batch) -> None:
        """Log the loss, and stop if it is NaN or infinite."""
        self._require_finite(loss, batch)
        self.log("train/loss", self._over_processes(loss), batch_size=len(batch))

    def _over_processes(self, loss: Tensor) -> Tensor:
        """The logged loss: the mean over processes at points of the curve, where all wait once."""
        shown = loss.detach().clone()
        is_point = (self.global_step + 1) % self.check_every_n_steps == 0
        if is_point and torch.distributed.is_initialized():
            return self.trainer.strategy.reduce(shown, reduce_op="mean")
        return shown

    def _require_finite(self, loss: Tensor, batch: Batch) -> None:
        """Stop at a loss that is NaN or infinite; on a GPU check only at points of the curve.

        A check at every step would make the processor wait for the GPU. A late check is safe, since
        no checkpoint is written before one (``Checkpoints`` checks too).
        """
        if loss.device.type != "cpu" and self.global_step % self.check_every_n_steps:
            return
        if not torch.isfinite(loss.detach()):
            names = ", ".join(batch.names)
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.global_step} (pictures: {names}); lower "
                "optim.unet_lr (or optim.transformer_lr, where it is set), set "
                "trainer.gradient_clip_val=1.0, or use trainer.precision=fp32"
            )
