"""Why an image is refused: one exception class, one stable machine code per cause."""

from __future__ import annotations

#: Every code an image can be refused with, and the sentence people read. Codes are never renamed.
CODES = {
    "image.empty": "the image has no bytes",
    "image.too_large": "the file is larger than the limit",
    "image.too_many_pixels": "the image has more pixels than the limit",
    "image.too_many_frames": "the animation has more frames than the limit",
    "image.too_many_scans": "the JPEG has more scans than the limit for its size",
    "image.unsupported_format": "the format is not accepted; send JPEG, PNG or WebP",
    "image.truncated": "the file ends before the image does",
    "image.corrupt": "the file is damaged and cannot be decoded",
    "image.decode_timeout": "decoding the image took more processor time than the limit",
    "image.decode_memory": "decoding the image took more memory than the limit",
    "image.decode_crash": "the decoder crashed on the image",
}


class ImageError(ValueError):
    """An image was refused; ``code`` is one of :data:`CODES` and ``message`` a sentence without internals."""

    def __init__(self, code: str, detail: str = "") -> None:
        """Build from a code of :data:`CODES`, with an optional detail such as the measured size."""
        self.code, self.detail = code, detail
        self.message = f"{CODES[code]} ({detail})" if detail else CODES[code]
        super().__init__(f"[{code}] {self.message}")
