"""Times the preparation of images with and without looking at their provenance, in turn.

``python -m veridict.loadtests.bench.provenance_cost FOLDER`` prints one line. Preparation is a part of a verdict, so a
verdict grows by less than this ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veridict.forensics.preprocess import prepare, warm_up
from veridict.forensics.provenance.read import ProvenanceReader

from ..tables import format_number
from .forensics_cost import one_thread

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class ProvenanceCost:
    """Processor time per image in milliseconds, the least of the rounds, without and with provenance."""

    without: Sequence[float]
    with_provenance: Sequence[float]

    @property
    def ratio(self) -> float:
        """Return the median over the images of the time with provenance over the time without."""
        return statistics.median(b / a for a, b in zip(self.without, self.with_provenance, strict=True))


def time_provenance(images: Sequence[bytes], rounds: int) -> ProvenanceCost:
    """Prepare every image ``rounds`` times both ways; the order changes from round to round.

    Raises:
        ImageError: an image is refused.
    """
    readers = (None, ProvenanceReader())
    times: tuple[list[float], list[float]] = ([], [])
    with one_thread():
        warm_up()
        for data in images:
            prepare(data, provenance=readers[1])
            least = [float("inf")] * 2
            for number in range(rounds):
                for which in (0, 1) if number % 2 else (1, 0):
                    started = time.process_time()
                    prepare(data, provenance=readers[which])
                    least[which] = min(least[which], 1e3 * (time.process_time() - started))
            for kept, value in zip(times, least, strict=True):
                kept.append(value)
    return ProvenanceCost(*times)


def main(argv: Sequence[str] | None = None) -> None:
    """Time the images of a folder and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100, help="images at most (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="preparations each way (default: %(default)s)")
    arguments = parser.parse_args(argv)
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    random.Random(0).shuffle(paths)  # noqa: S311 - reproducible, no secret
    images = [path.read_bytes() for path in paths[: arguments.images]]
    if not images:
        parser.error(f"{arguments.folder} holds no JPEG, PNG or WebP file")
    cost = time_provenance(images, arguments.rounds)
    without, including = (statistics.mean(times) for times in (cost.without, cost.with_provenance))
    means = f"{format_number(without, 2)} ms without, {format_number(including, 2)} ms with provenance in the mean"
    print(f"{len(images)} images: {means}; median ratio {cost.ratio:.3f}")


if __name__ == "__main__":
    main()
