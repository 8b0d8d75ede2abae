"""Scorer of faces: distance and cosine to a person's, faceless pictures, several faces."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sdlora.evaluation.face_metric import FaceCosine, FaceDistance, FaceModel, Faces
from sdlora.evaluation.scoring import KnownPictures, Measured, Pictures, Unavailable
from sdlora.evaluation.strangers import RIGHT_ANGLE
from sdlora.runtime.progress import Progress

OWN = ("face_distance", "face_cosine")


@dataclass(slots=True)
class FaceScorer:
    """Face distance and cosine to references and to training pictures; faceless and several faces.

    Attributes:
        model: What embeds faces.
        references: Pictures of the person, preferably held out.
        training: The training pictures; empty where they are the references.
        remedy: What to try where most pictures of the person show no face, for the note.
    """

    model: FaceModel
    references: KnownPictures
    training: KnownPictures = KnownPictures()  # noqa: RUF009 - frozen
    remedy: str = ""
    names: ClassVar[tuple[str, ...]] = (*OWN, "faceless", "several_faces")
    _known: dict[str, Tensor] = field(default_factory=dict, init=False)

    def score(self, pictures: Pictures, progress: Progress) -> Measured:
        """Score pictures; those without a face count as an unrelated person."""
        references = self._vectors("references", self.references, progress)
        if not len(references):
            raise Unavailable(_no_face(self.references))
        faces = self.model.embed(pictures.images)
        measured = Measured()
        self._compare(measured, faces, references, "")
        if self.training.images and not pictures.are_training:
            training = self._vectors("training pictures", self.training, progress)
            if len(training):
                self._compare(measured, faces, training, "_training")
        measured.values["faceless"] = int((faces.counts == 0).sum())
        measured.values["several_faces"] = int((faces.counts > 1).sum())
        measured.per_picture["num_faces"] = faces.counts.tolist()
        return measured

    def _compare(self, measured: Measured, faces: Faces, known: Tensor, ending: str) -> None:
        stranger, faceless = self.model.stranger, int((~faces.found).sum())
        if stranger is None and faceless:
            for name in OWN:
                measured.lack(
                    name + ending,
                    f"{faceless} of {len(faces.counts)} pictures show no face, and it is not known "
                    "how far strangers' faces are by this network, as which they would count",
                )
            return
        stranger = stranger or RIGHT_ANGLE  # counts nowhere: every picture has a face
        distance = FaceDistance(known, stranger.distance)
        cosine = FaceCosine(known, stranger.cosine)
        distance.update(faces)
        cosine.update(faces)
        measured.add(OWN[0] + ending, distance)
        measured.add(OWN[1] + ending, cosine)

    def _vectors(self, what: str, known: KnownPictures, progress: Progress) -> Tensor:
        """Face embeddings of known pictures, computed once; faceless ones are left out."""
        if what not in self._known:
            faces = self.model.embed(known.images)
            shown = zip(known.names, faces.found.tolist(), strict=True)
            if lacking := [name for name, found in shown if not found]:
                is_most = 2 * len(lacking) > len(known.names)
                progress.print(
                    f"note: {len(lacking)} of {len(known.names)} {what} show no face and are left "
                    f"out of the face scores: {', '.join(lacking)}"
                    + (f"; {self.remedy}" if is_most and self.remedy else "")
                )
            self._known[what] = faces.vectors[faces.found]
        return self._known[what]


def _no_face(references: KnownPictures) -> str:
    if not references.images:
        return "there are no reference pictures to compare with"
    return f"none of the {len(references.images)} references shows a face"
