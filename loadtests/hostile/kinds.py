"""What a hostile image is: its name, its bytes, and which answers to it are right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from veridict.forensics.arrays import Pixels


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of hostile image.

    ``codes``: the error codes that are right. ``size``: width and height in pixels of a right verdict; None: the image
    must be refused. ``shown``: the pixels uint8 [H, W, 3] that a viewer shows, where they are known. The mean
    difference of the decoded pixels from them may be up to ``tolerance`` (levels of 255). ``frames``: those of a right
    verdict. ``large``: a valid image of many pixels, which costs what every image of its size costs.
    """

    name: str
    data: bytes
    codes: frozenset[str] = frozenset()
    size: tuple[int, int] | None = None
    shown: Pixels | None = None
    tolerance: float = 0.0
    frames: int = 1
    large: bool = False

    def fault_of_refusal(self, code: str) -> str:
        """Return what is wrong with a refusal by this code, or ""."""
        return "" if code in self.codes else f"refused with {code}, right is {self.right}"

    def fault_of_size(self, width: int, height: int, frames: int) -> str:
        """Return what is wrong with a verdict on an image of this size, or ""."""
        if self.size is None or self.size != (width, height) or self.frames != frames:
            return f"judged as {width}x{height} of {frames} frames, right is {self.right}"
        return ""

    def fault_of_pixels(self, pixels: Pixels) -> str:
        """Return what is wrong with the decoded upright sRGB pixels [H, W, 3], or ""."""
        if self.shown is None:
            return ""
        if pixels.shape != self.shown.shape:
            return f"the pixels have the shape {pixels.shape}, right is {self.shown.shape}"
        difference = float(np.abs(pixels.astype(np.int16) - self.shown).mean())
        return f"the pixels differ by {difference:.2f} levels" if difference > self.tolerance else ""

    @property
    def right(self) -> str:
        """Return the right answers in words."""
        verdict = [f"a verdict on {self.size[0]}x{self.size[1]}"] if self.size else []
        return " or ".join([*sorted(self.codes), *verdict])


def refused(name: str, data: bytes, *codes: str) -> Kind:
    """Return a kind that must be refused, with one of the codes (without their prefix ``image.``)."""
    return Kind(name, data, frozenset(f"image.{code}" for code in codes))


def judged(name: str, data: bytes, shown: Pixels, tolerance: float = 0.0, frames: int = 1) -> Kind:
    """Return a kind that must be judged by the pixels [H, W, 3] that a viewer shows."""
    return Kind(name, data, size=(shown.shape[1], shown.shape[0]), shown=shown, tolerance=tolerance, frames=frames)


def sized(name: str, data: bytes, width: int, height: int, frames: int = 1) -> Kind:
    """Return a kind that must be judged; its pixels are not defined, since viewers differ."""
    return Kind(name, data, size=(width, height), frames=frames)


def or_refused(kind: Kind, *codes: str) -> Kind:
    """Return the kind with further right refusals: viewers disagree whether such a file is an image."""
    return replace(kind, codes=kind.codes | {f"image.{code}" for code in codes})
