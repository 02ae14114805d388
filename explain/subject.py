"""What is explained: one decoded picture, the face crop or CLIP view the network saw, and where that lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from veridict.forensics.decode import DecodedImage, decode_image
from veridict.forensics.errors import ImageError
from veridict.forensics.faces import Box, clip_view, crop_faces, crop_region, find_faces
from veridict.forensics.preprocess import shrink_for_views
from veridict.forensics.signature import MAX_FACES

from .attribution import Pixels
from .errors import ExplainError


@dataclass(frozen=True)
class Subject:
    """One picture to explain; ``face`` is the index of the face among those found, largest first."""

    image: DecodedImage
    face: int = 0

    @cached_property
    def _small(self) -> Pixels:
        return shrink_for_views(self.image.preview)

    @cached_property
    def boxes(self) -> list[Box]:
        """Return the faces that a verdict looks at, largest first."""
        return find_faces(self._small, (self.image.width, self.image.height))[:MAX_FACES]

    @cached_property
    def box(self) -> Box:
        """Return the explained face's box.

        Raises:
            ExplainError: ``explain.no_face``.
        """
        if self.face >= len(self.boxes):
            found = len(self.boxes)
            raise ExplainError("explain.no_face", f"face {self.face} of {found}" if found else "")
        return self.boxes[self.face]

    @cached_property
    def crop(self) -> Pixels:
        """Return the face crop uint8 [224, 224, 3], exactly as the served pipeline cuts it."""
        (crop,) = crop_faces(self.image, [self.box])
        return crop

    @cached_property
    def view(self) -> Pixels:
        """Return the whole picture as CLIP sees it, uint8 [224, 224, 3]."""
        return clip_view(self._small)

    @property
    def face_region(self) -> tuple[int, int, int, int]:
        """Return where the crop lies in the picture, [x, y, width, height]."""
        return crop_region(self.image.width, self.image.height, self.box)

    @property
    def whole_region(self) -> tuple[int, int, int, int]:
        """Return the whole picture as a region."""
        return 0, 0, self.image.width, self.image.height


def read_subject(data: bytes, face: int = 0) -> Subject:
    """Decode an encoded image into a subject.

    Raises:
        ExplainError: ``explain.image`` with the decoder's own code, or ``explain.bad_request`` for a negative face.
    """
    if face < 0:
        raise ExplainError("explain.bad_request", f"face {face}")
    try:
        return Subject(decode_image(data), face)
    except ImageError as error:
        raise ExplainError("explain.image", f"{error.code}: {error.message}") from error
