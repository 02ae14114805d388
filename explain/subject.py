"""What is explained: one decoded image, the face crop or CLIP view that the network saw, and its region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.decode import DecodedImage, decode_image
from veridict.forensics.errors import ImageError
from veridict.forensics.faces import Box, crop_faces, crop_region, find_faces
from veridict.forensics.preprocess import shrink_for_views
from veridict.forensics.signature import MAX_FACES
from veridict.forensics.views import clip_view, content_box

from .errors import ExplainError

#: Logits float32 [N] of face crops uint8 [N, 224, 224, 3].
ScoreFaces = Callable[[Pixels], Float32Array]


@dataclass(frozen=True, eq=False)
class Subject:
    """One image to explain.

    ``face`` is the index of the face among those found, largest first. None stands for the most suspicious face, the
    one that the verdict counts; ``score_faces`` finds it.
    """

    image: DecodedImage
    face: int | None = None
    score_faces: ScoreFaces | None = None

    @cached_property
    def _small(self) -> Pixels:
        return shrink_for_views(self.image.preview)

    @cached_property
    def boxes(self) -> list[Box]:
        """Return the faces that a verdict looks at, largest first."""
        return find_faces(self._small, (self.image.width, self.image.height))[:MAX_FACES]

    @cached_property
    def face_index(self) -> int:
        """Return the index of the explained face.

        Raises:
            ExplainError: ``explain.no_face``, or the error of ``score_faces``.
        """
        found = len(self.boxes)
        if not found or (self.face is not None and self.face >= found):
            raise ExplainError("explain.no_face", f"face {self.face} of {found}" if found else "")
        if self.face is not None:
            return self.face
        if found == 1 or self.score_faces is None:
            return 0
        return int(np.argmax(self.score_faces(np.stack(crop_faces(self.image, self.boxes)))))

    @property
    def box(self) -> Box:
        """Return the explained face's box; raises as :attr:`face_index`."""
        return self.boxes[self.face_index]

    @cached_property
    def crop(self) -> Pixels:
        """Return the face crop uint8 [224, 224, 3], exactly as the served pipeline cuts it."""
        (crop,) = crop_faces(self.image, [self.box])
        return crop

    @cached_property
    def view(self) -> Pixels:
        """Return the image as CLIP sees it, uint8 [224, 224, 3]."""
        return clip_view(self._small)

    @property
    def face_region(self) -> tuple[int, int, int, int]:
        """Return where the crop lies in the image, [x, y, width, height]."""
        return crop_region(self.image.width, self.image.height, self.box)

    @property
    def view_region(self) -> tuple[int, int, int, int]:
        """Return where CLIP's view lies in the image, [x, y, width, height]: the image without flat margins."""
        box, (rows, columns) = content_box(self._small), self._small.shape[:2]
        left, right = (round(x * self.image.width / columns) for x in (box.x, box.x + box.width))
        top, bottom = (round(y * self.image.height / rows) for y in (box.y, box.y + box.height))
        return left, top, right - left, bottom - top

    @property
    def whole_region(self) -> tuple[int, int, int, int]:
        """Return the whole image as a region."""
        return 0, 0, self.image.width, self.image.height


def read_subject(data: bytes, face: int | None = None, score_faces: ScoreFaces | None = None) -> Subject:
    """Decode an encoded image into a subject.

    Raises:
        ExplainError: ``explain.image`` with the decoder's own code, or ``explain.bad_request`` for a negative face.
    """
    if face is not None and face < 0:
        raise ExplainError("explain.bad_request", f"face must be at least 0, not {face}")
    try:
        return Subject(decode_image(data), face, score_faces)
    except ImageError as error:
        raise ExplainError("explain.image", f"{error.code}: {error.message}") from error
