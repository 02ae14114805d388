"""The table of signals: a row per signal, from which everything that lists signals is derived.

Measuring, fusion, fitting, evaluation, the sentence of an answer and the check of a calibration file all read this
table. To add a forensic signal: write a function in :mod:`.measure`, add a row here, and run ``veridict calibrate``,
which fits the signal's percentiles and weights. A calibration file that does not match the table is refused at start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .decode import DecodedImage
from .measure import measure_blur, measure_error_level, measure_noise, to_working_size
from .observation import Measurement
from .pixels import to_luma

#: What a signal is computed from. ``file``: the :class:`~.decode.DecodedImage`. ``luma``: its working-size luma
#: [H, W] uint8. ``zero_shot``: CLIP's logits [2 + categories] for the prompts real, deepfake and the categories.
#: ``head_score``: the token head's score. ``face_logits``: the face CNN's logits, one per face.
Needs = Literal["file", "luma", "zero_shot", "head_score", "face_logits"]
#: What is fitted for a signal: percentiles of real photographs, by which the value is read as low, normal or high; the
#: token head's weights; or nothing beyond its weight in the fusion.
Head = Literal["percentiles", "token_head", ""]


@dataclass(frozen=True)
class SignalRow:
    """One signal.

    ``measure`` takes what the row ``needs`` and returns a :class:`Measurement`. ``words`` are the clauses of the
    answer's sentence: by reading (``low``, ``normal``, ``high``) where percentiles are fitted, else by the side that
    the signal speaks for (``deepfake``, ``real``).
    """

    name: str
    needs: Needs
    measure: Callable[[Any], Measurement]
    words: Mapping[str, str]
    head: Head = ""


SIGNALS = (
    SignalRow(
        "clip",
        "zero_shot",
        # The margin in logits: deepfake - real.
        lambda logits: Measurement(float(logits[1] - logits[0])),
        {"deepfake": "CLIP favoring 'deepfake'", "real": "CLIP favoring 'real'"},
    ),
    SignalRow(
        "tokens",
        "head_score",
        lambda score: Measurement(float(score)),
        {
            "deepfake": "fine structure like that of generated pictures",
            "real": "fine structure like that of real pictures",
        },
        head="token_head",
    ),
    SignalRow(
        "face",
        "face_logits",
        # The most suspicious face counts.
        lambda logits: Measurement(float(max(logits))),
        {
            "deepfake": "a face with traces of generation or swapping",
            "real": "no traces of manipulation in the faces",
        },
    ),
    SignalRow(
        "ela",
        "file",
        measure_error_level,
        {
            "low": "unusually even compression error",
            "normal": "compression error as in photographs",
            "high": "strong compression error",
        },
        head="percentiles",
    ),
    SignalRow(
        "blur",
        "luma",
        measure_blur,
        {"low": "low sharpness", "normal": "ordinary sharpness", "high": "unusual sharpness"},
        head="percentiles",
    ),
    SignalRow(
        "noise",
        "luma",
        measure_noise,
        {"low": "low residual noise", "normal": "ordinary residual noise", "high": "high residual noise"},
        head="percentiles",
    ),
)

ROWS = {row.name: row for row in SIGNALS}
#: Every term that a regime may weigh.
TERMS = tuple(ROWS)
#: The signals that are measured on the file itself and read against real photographs.
FORENSIC = tuple(row.name for row in SIGNALS if row.head == "percentiles")
#: The terms that are meaningless on another CLIP than the one they were fitted on.
CLIP_TERMS = tuple(row.name for row in SIGNALS if row.needs in ("zero_shot", "head_score"))
#: The words that a row must have, by what is fitted for it.
_WORDS = {"percentiles": {"low", "normal", "high"}}


def measure_signals(inputs: Mapping[str, Any]) -> dict[str, Measurement]:
    """Return the measurement of every signal whose input is there, by name, in the order of the table."""
    return {row.name: row.measure(inputs[row.needs]) for row in SIGNALS if inputs.get(row.needs) is not None}


def measure_image(image: DecodedImage) -> dict[str, Measurement]:
    """Return every forensic signal of a decoded image by name."""
    return measure_signals({"file": image, "luma": to_working_size(to_luma(image.preview))})


def check_table(rows: tuple[SignalRow, ...] = SIGNALS) -> None:
    """Check that names are unique and every row has the words that its readings need.

    Raises:
        ValueError: a row is wrong; the message names it.
    """
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the table of signals has {sorted(twice)[0]!r} twice")
    for row in rows:
        expected = _WORDS.get(row.head, {"deepfake", "real"})
        if set(row.words) != expected:
            raise ValueError(f"the signal {row.name!r} needs words for {', '.join(sorted(expected))}")
