"""Training of the face embedder: identity by a contrastive loss, and face / no face."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdlora.runtime.randomness import generator
from sdlora.world.face import FaceEmbedder
from sdlora.world.portraits import HELD_OUT_SEEDS, TRAIN_SEEDS
from sdlora.world.training.degrade import degrade
from sdlora.world.training.faceless import faceless
from sdlora.world.training.fitting import WORK_FOLDER, Fit, Recipe, fit
from sdlora.world.training.many_portraits import cached, to_tensor

NUM_PEOPLE, PICTURES_EACH = 2_500, 6
NUM_FACELESS = 3_000
NUM_FACELESS_A_BATCH = 24
TEMPERATURE = 0.07
# A batch is this many people, two pictures of each.
RECIPE = Recipe(num_steps=1_000, batch_size=48, max_lr=3e-3, weight_decay=1e-2)


def people_pictures(name: str, seeds: range, num_people: int, each: int) -> np.ndarray:
    """Draw people, each in ``each`` scenes: ``[num_people, each, 64, 64, 3]`` uint8."""
    scenes = list(seeds[-num_people * each :])
    people = [seeds[index // each] for index in range(len(scenes))]
    return cached(WORK_FOLDER, name, scenes, people).reshape(num_people, each, 64, 64, 3)


def faceless_pictures(seeds: range) -> np.ndarray:
    """Draw pictures without a face: ``[N, 64, 64, 3]`` uint8."""
    return np.stack([np.asarray(faceless(seed)) for seed in seeds])


def same_person_loss(vectors: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding a picture's partner among all other pictures of the batch.

    Args:
        vectors: ``[2 P, D]``, unit length; row ``p`` and row ``p + P`` are one person.
        temperature: Divides the cosines, > 0.

    Returns:
        The mean over all rows.

    Source:
        NT-Xent, Chen et al. 2020, arXiv:2002.05709, eq. 1.
    """
    cosines = vectors @ vectors.T / temperature
    cosines = cosines.masked_fill(torch.eye(len(vectors), dtype=torch.bool), float("-inf"))
    partner = torch.arange(len(vectors)).roll(len(vectors) // 2)
    return F.cross_entropy(cosines, partner)


class FaceFit(Fit):
    """Training on the identity loss plus face / no face."""

    def __init__(self, people: Tensor, others: Tensor, recipe: Recipe = RECIPE) -> None:
        super().__init__(recipe)
        torch.manual_seed(recipe.seed)
        self.net = FaceEmbedder()
        self.people, self.others = people, others

    def training_step(self, indices: Tensor, step: int) -> Tensor:
        """Two pictures of each person at ``indices``, ``[P]``, and some faceless ones."""
        source = generator(self.recipe.seed, "face", step)
        each = self.people.shape[1]
        first = torch.randint(each, (len(indices),), generator=source)
        second = (first + torch.randint(1, each, (len(indices),), generator=source)) % each
        faces = torch.cat([self.people[indices, first], self.people[indices, second]])
        chosen = torch.randint(len(self.others), (NUM_FACELESS_A_BATCH,), generator=source)
        x = to_tensor(torch.cat([faces, self.others[chosen]]).numpy())
        order = torch.randperm(len(x), generator=source)
        x = degrade(x[order], source)[order.argsort()]
        vectors, presence = self.net.logits(x)
        loss = same_person_loss(vectors[: len(faces)])
        target = torch.zeros(len(x))
        target[: len(faces)] = 1
        presence_loss = F.binary_cross_entropy_with_logits(presence, target)
        self.print_values({"loss": loss.detach(), "presence": presence_loss.detach()})
        return loss + presence_loss


def equal_error_rate(vectors: Tensor, people: Tensor) -> float:
    """Error at the threshold where false accepts equal false rejects.

    Args:
        vectors: ``[N, D]``, unit length.
        people: Person of each vector, ``[N]``.

    Returns:
        Share of all pairs, 0 to 1.
    """
    rows, columns = torch.triu_indices(len(vectors), len(vectors), 1)
    cosines = (vectors @ vectors.T)[rows, columns]
    same = people[rows] == people[columns]
    order = cosines.argsort(descending=True)
    accepted_same = same[order].cumsum(0) / same.sum()
    accepted_others = (~same[order]).cumsum(0) / (~same).sum()
    gap = (accepted_others - (1 - accepted_same)).abs().argmin()
    return float((accepted_others[gap] + 1 - accepted_same[gap]) / 2)


@torch.no_grad()
def measure(net: FaceEmbedder, people: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Measure the equal error rate and the accuracy of face / no face, 0 to 1.

    Args:
        net: The embedder.
        people: ``[P, K, 64, 64, 3]`` uint8, K pictures of each person.
        others: ``[N, 64, 64, 3]`` uint8, no face in them.
    """
    num_people, each = people.shape[:2]
    faces = [net(part) for part in to_tensor(people.reshape(-1, 64, 64, 3)).split(100)]
    vectors = torch.cat([face.vectors for face in faces])
    owners = torch.arange(num_people).repeat_interleave(each)
    seen = torch.cat([face.face_probability for face in faces]) > 0.5
    unseen = torch.cat([net(part).face_probability for part in to_tensor(others).split(100)]) <= 0.5
    return {
        "equal_error_rate": equal_error_rate(vectors, owners),
        "face_accuracy": float(torch.cat([seen, unseen]).float().mean()),
    }


def train_face(folder: Path, recipe: Recipe = RECIPE) -> dict[str, float]:
    """Train the embedder and write it to ``folder``.

    Returns:
        The measurements of :func:`measure` on unseen people and unseen faceless pictures.
    """
    people = people_pictures("people", TRAIN_SEEDS, NUM_PEOPLE, PICTURES_EACH)
    others = faceless_pictures(TRAIN_SEEDS[:NUM_FACELESS])
    module = FaceFit(torch.from_numpy(people), torch.from_numpy(others), recipe)
    seconds = fit(module, len(people), "face")
    net = module.net.eval()
    unseen = people_pictures("people_held_out", HELD_OUT_SEEDS, 100, 6)
    measured = measure(net, unseen, faceless_pictures(HELD_OUT_SEEDS[:600]))
    print(json.dumps({**measured, "seconds": seconds}), flush=True)
    net.save_pretrained(folder)
    return measured
