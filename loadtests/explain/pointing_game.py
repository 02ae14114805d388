"""The pointing game (Zhang et al. 2018): does a map's strongest vote for fake lie inside a planted, manipulated square?

There are two manipulations, since no trace is in both. ``swap`` imitates a face swap: the square is resampled and
toned, then the whole image is saved once more. ``splice`` gives the square another compression history: the rest of the
image was saved at a low quality, the square was not. A map without information points at the square as often as the
square's share of the explained area.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from veridict.explain.attribution import Attribution, Budget
from veridict.explain.methods import run_method
from veridict.explain.models import Models
from veridict.explain.reports.render import smooth
from veridict.explain.subject import Subject, read_subject
from veridict.forensics.arrays import Pixels

from ..sample_images import encode_jpeg
from ..tables import markdown_table

Square = tuple[int, int, int]
Manipulation = Literal["swap", "splice"]
MANIPULATIONS: tuple[Manipulation, ...] = ("swap", "splice")
#: Side of the square / side of the face crop.
SQUARE_SHARE = 1 / 3
#: The methods whose map points with its lowest value. A resampled square has less noise and detail than its
#: surroundings; a spliced one kept what the low quality removed from its surroundings.
POINTS_WITH_LOWEST: dict[Manipulation, frozenset[str]] = {
    "swap": frozenset({"noise", "sharpness"}),
    "splice": frozenset(),
}
#: JPEG qualities of a splice: of the image before the square is planted, and of the file with the square.
QUALITY_BEFORE, QUALITY_AFTER = 75, 95
#: JPEG quality of the file with a swapped square.
_QUALITY_SWAP = 92


@dataclass(frozen=True)
class PlantedSquare:
    """One image of the game: with the square (``subject``), the square [x, y, side], and without it (``clean``)."""

    subject: Subject
    square: Square
    clean: Subject


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    ``hits`` (0..1) and ``chances`` (probability of a hit by chance) are by method; ``logit_change`` is how far the
    square moved the face CNN's logit.
    """

    manipulation: Manipulation
    hits: dict[str, float]
    chances: dict[str, float]
    logit_change: float


def recompress(pixels: Pixels, quality: int) -> Pixels:
    """Return the pixels after one JPEG compression."""
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(pixels, quality))).convert("RGB"))


def simulate_face_swap(part: Pixels) -> Pixels:
    """Return a square uint8 [S, S, 3] mirrored, resampled to 40% and back, and toned, as a face swap does."""
    side = len(part)
    small = cv2.resize(np.ascontiguousarray(part[:, ::-1]), (max(4, side * 2 // 5),) * 2, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.asarray(np.clip(soft * [1.06, 1.0, 0.95] + 4, 0, 255), dtype=np.uint8)


def plant_square(data: bytes, manipulation: Manipulation, rng: np.random.Generator) -> PlantedSquare:
    """Plant a square at a random place in the face crop of an encoded image.

    Raises:
        ExplainError: the image is refused or has no face.
    """
    found = read_subject(data)
    x, y, size, _ = found.face_region
    side = max(8, round(size * SQUARE_SHARE))
    left, top = (int(start + rng.integers(size // 8, size - side - size // 8 + 1)) for start in (x, y))
    before = found.image.pixels
    if manipulation == "swap":
        planted, quality = simulate_face_swap(before[top : top + side, left : left + side]), _QUALITY_SWAP
    else:
        # Shrinking to half removes any compression history of the square, but not its noise.
        wide = min(2 * side, *before.shape[:2])
        from_x, from_y = (max(0, min(at, end - wide)) for at, end in ((left, before.shape[1]), (top, before.shape[0])))
        source = np.ascontiguousarray(before[from_y : from_y + wide, from_x : from_x + wide][:, ::-1])
        planted = np.asarray(cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        quality = QUALITY_AFTER
        before = recompress(before, QUALITY_BEFORE)
    after = before.copy()
    after[top : top + side, left : left + side] = planted
    clean, subject = (read_subject(encode_jpeg(pixels, quality)) for pixels in (before, after))
    for one in (clean, subject):
        one.__dict__["boxes"] = found.boxes  # keeps the crop in place, whatever the square does to the face finder
    return PlantedSquare(subject, (left, top, side), clean)


def share_inside(result: Attribution, square: Square, *, lowest: bool = False) -> float:
    """Return the share (0..1) of the map's highest (or ``lowest``) pixels that lie in the square [x, y, side].

    A map of regions has many pixels of the highest value. The share is then the probability that a random one of them
    hits.
    """
    values = -smooth(result) if lowest else smooth(result)
    x, y, width, height = result.region
    rows, columns = np.nonzero(values == values.max())
    at_x = x + (columns + 0.5) * width / values.shape[1]
    at_y = y + (rows + 0.5) * height / values.shape[0]
    left, top, side = square
    inside = (left <= at_x) & (at_x < left + side) & (top <= at_y) & (at_y < top + side)
    return float(inside.mean())


def run_trial(
    data: bytes, manipulation: Manipulation, seed: int, names: Sequence[str], models: Models, budget: Budget
) -> TrialResult:
    """Plant a square in one image, run every method on it, and return where the maps point."""
    planted = plant_square(data, manipulation, np.random.default_rng(seed))
    before, after = (float(models.scorer(s.crop[None])[0]) for s in (planted.clean, planted.subject))
    hits, chances = {}, {}
    for name in names:
        result = run_method(name, planted.subject, models, budget)
        hits[name] = share_inside(result, planted.square, lowest=name in POINTS_WITH_LOWEST[manipulation])
        chances[name] = planted.square[2] ** 2 / (result.region[2] * result.region[3])
    return TrialResult(manipulation, hits, chances, after - before)


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a rate (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = (hits + z * z / 2) / (count + z * z)
    half = z * (hits * (count - hits) / count + z * z / 4) ** 0.5 / (count + z * z)
    return centre - half, centre + half


def pointing_game_table(results: Sequence[TrialResult], names: Sequence[str]) -> str:
    """Return the Markdown table of hit rates by method and manipulation, and how the square moves the face CNN."""
    by_manipulation = {name: [r for r in results if r.manipulation == name] for name in MANIPULATIONS}
    rows = []
    for name in names:
        cells = []
        for trials in by_manipulation.values():
            hits = sum(r.hits[name] for r in trials)
            low, high = wilson(hits, len(trials))
            cells.append(f"{hits / len(trials):.2f} ({low:.2f}-{high:.2f})")
        rows.append((name, *cells, f"{statistics.fmean(r.chances[name] for r in results):.2f}"))
    parts = [markdown_table(("method", *MANIPULATIONS, "chance"), rows)]
    for manipulation, trials in by_manipulation.items():
        changes = [r.logit_change for r in trials]
        parts.append(
            f"The {manipulation} square raises the face CNN's logit in {sum(c > 0 for c in changes)} of {len(trials)} "
            f"images (median change {statistics.median(changes):+.2f})."
        )
    return "\n\n".join(parts)
