"""The pointing game (Zhang et al. 2018): does a map's strongest vote for fake lie inside a planted, manipulated square?

Two kinds of square, since no trace is in both: ``swap`` has the steps of a face swap (resampled, toned, then the whole
picture is saved once more), ``splice`` has a compression history of its own (the rest of the picture was saved at a
low quality, the square was not). A blind map points at the square as often as the square's share of the explained area.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from veridict.explain.attribution import Attribution, Budget
from veridict.explain.methods import run_method
from veridict.explain.models import Models
from veridict.explain.reports.render import smooth
from veridict.explain.subject import Subject, read_subject

from ..sample_images import encode_jpeg

Pixels = npt.NDArray[np.uint8]
Square = tuple[int, int, int]
Kind = Literal["swap", "splice"]
KINDS: tuple[Kind, ...] = ("swap", "splice")
#: Side of the square over the side of the face crop.
SHARE = 1 / 3
#: A resampled square has less grain and detail than its surroundings, so these maps point with their lowest value; a
#: spliced one kept what the low quality took from its surroundings.
LOWEST: dict[Kind, frozenset[str]] = {"swap": frozenset({"noise", "sharpness"}), "splice": frozenset()}
#: JPEG qualities of the splice: the picture before it, and the file with it.
BEFORE, AFTER = 75, 95


@dataclass(frozen=True)
class Turn:
    """One picture of the game: the subject, the square [x, y, side] in it, and the picture without it."""

    subject: Subject
    square: Square
    clean: Subject


@dataclass(frozen=True)
class Outcome:
    """One turn: hit (0..1) and blind chance by method, and how far the square moved the face CNN's logit."""

    kind: Kind
    hits: dict[str, float]
    chances: dict[str, float]
    rise: float


def resaved(pixels: Pixels, quality: int) -> Pixels:
    """Return the pixels after one JPEG compression."""
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(pixels, quality))).convert("RGB"))


def resample(part: Pixels) -> Pixels:
    """Return a square [S, S, 3] mirrored, resampled to 40% and back, and toned: the steps of a face swap."""
    side = len(part)
    small = cv2.resize(np.ascontiguousarray(part[:, ::-1]), (max(4, side * 2 // 5),) * 2, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.asarray(np.clip(soft * [1.06, 1.0, 0.95] + 4, 0, 255), dtype=np.uint8)


def plant(data: bytes, kind: Kind, rng: np.random.Generator) -> Turn:
    """Plant a square somewhere in the face crop of an encoded picture.

    Raises:
        ExplainError: the picture is refused or has no face.
    """
    found = read_subject(data)
    x, y, size, _ = found.face_region
    side = max(8, round(size * SHARE))
    left, top = (int(start + rng.integers(size // 8, size - side - size // 8 + 1)) for start in (x, y))
    before = found.image.pixels
    if kind == "swap":
        planted, quality = resample(before[top : top + side, left : left + side]), 92
    else:
        # Shrunk to half, the square has lost whatever history it came with, and none of its grain.
        wide = min(2 * side, *before.shape[:2])
        from_x, from_y = (max(0, min(at, end - wide)) for at, end in ((left, before.shape[1]), (top, before.shape[0])))
        source = np.ascontiguousarray(before[from_y : from_y + wide, from_x : from_x + wide][:, ::-1])
        planted, quality = np.asarray(cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA), np.uint8), AFTER
        before = resaved(before, BEFORE)
    after = before.copy()
    after[top : top + side, left : left + side] = planted
    clean, subject = (read_subject(encode_jpeg(pixels, quality)) for pixels in (before, after))
    for one in (clean, subject):
        one.__dict__["boxes"] = found.boxes  # the crop stays where it was, whatever the finder makes of the square
    return Turn(subject, (left, top, side), clean)


def points_at(result: Attribution, square: Square, *, lowest: bool = False) -> float:
    """Return whether the map's strongest vote for fake (or its ``lowest`` value) lies in the square [x, y, side], 0..1.

    Maps of regions have many pixels of that value: the share of them inside is the chance of a draw.
    """
    values = -smooth(result) if lowest else smooth(result)
    x, y, width, height = result.region
    rows, columns = np.nonzero(values == values.max())
    at_x = x + (columns + 0.5) * width / values.shape[1]
    at_y = y + (rows + 0.5) * height / values.shape[0]
    left, top, side = square
    inside = (left <= at_x) & (at_x < left + side) & (top <= at_y) & (at_y < top + side)
    return float(inside.mean())


def play_turn(data: bytes, kind: Kind, seed: int, names: Sequence[str], models: Models, budget: Budget) -> Outcome:
    """Plant a square in one picture and ask every method where it points."""
    turn = plant(data, kind, np.random.default_rng(seed))
    before, after = (float(models.scorer(s.crop[None])[0]) for s in (turn.clean, turn.subject))
    hits, chances = {}, {}
    for name in names:
        result = run_method(name, turn.subject, models, budget)
        hits[name] = points_at(result, turn.square, lowest=name in LOWEST[kind])
        chances[name] = turn.square[2] ** 2 / (result.region[2] * result.region[3])
    return Outcome(kind, hits, chances, after - before)


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a rate (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = (hits + z * z / 2) / (count + z * z)
    half = z * (hits * (count - hits) / count + z * z / 4) ** 0.5 / (count + z * z)
    return centre - half, centre + half


def table(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """Return the Markdown table of both kinds, chance beside them, and how the face CNN reacts to the square."""
    by_kind = {kind: [o for o in outcomes if o.kind == kind] for kind in KINDS}
    lines = ["| method | " + " | ".join(KINDS) + " | chance |", "| --- |" + " --- |" * (len(KINDS) + 1)]
    for name in names:
        cells = []
        for played in by_kind.values():
            hits = sum(o.hits[name] for o in played)
            low, high = wilson(hits, len(played))
            cells.append(f"{hits / len(played):.2f} ({low:.2f}-{high:.2f})")
        blind = statistics.fmean(o.chances[name] for o in outcomes)
        lines.append(f"| {name} | {' | '.join(cells)} | {blind:.2f} |")
    for kind, played in by_kind.items():
        rises = [o.rise for o in played]
        lines.append(
            f"\nThe {kind} square raises the face CNN's logit in {sum(r > 0 for r in rises)} of {len(played)} pictures "
            f"(median change {statistics.median(rises):+.2f})."
        )
    return "\n".join(lines)
