"""The answer's sentence: a clause per signal, joined into one sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence

from .contract import Evidence, Face, Signal
from .doubts import WORDS
from .known_content.ruling import SIGNAL as KNOWN_CONTENT
from .provenance.ruling import SIGNAL
from .signals import ROWS

#: A smaller contribution (logits) changes the probability by less than about 5 points, so it is not named as a reason.
_WORTH_SAYING = 0.2
_MOST_REASONS = 2


def describe(name: str, contribution: float, signal: Signal | None, faces: Sequence[Face] = ()) -> str:
    """Return the clause for one signal; a clause about a fake face names the face and the face CNN's probability."""
    if signal is not None:
        return ROWS[name].words[signal.reading]
    if name == "face" and contribution > 0 and faces:
        return describe_face(faces)
    return ROWS[name].words["deepfake" if contribution > 0 else "real"]


def describe_face(faces: Sequence[Face]) -> str:
    """Return the clause about the most suspicious of at least one face."""
    worst = max(faces, key=lambda face: face.fake_probability)
    x, y, width, height = worst.box
    which = "a face" if len(faces) == 1 else f"one of {len(faces)} faces"
    where = f"at ({x + width // 2}, {y + height // 2})"
    return f"{which} {where} with traces of generation or swapping ({worst.fake_probability:.2f})"


def explain(
    verdict: str,
    evidence: Sequence[Evidence],
    doubts: Sequence[str] = (),
    faces: Sequence[Face] = (),
    pixels: str = "",
    match: str = "",
) -> str:
    """Return one sentence: the two strongest reasons for the verdict, the strongest against it, and why to doubt it.

    ``doubts`` are codes of :mod:`.doubts`. Where the file's provenance or known content decided, that is the reason,
    and the sentence says what the verdict of the ``pixels`` alone would have been. ``match``: the clause about a match
    with known content.
    """
    sign = 1.0 if verdict == "deepfake" else -1.0
    decided = {e.signal: e.text for e in evidence if e.signal in (SIGNAL, KNOWN_CONTENT)}
    declared = decided.get(KNOWN_CONTENT) or decided.get(SIGNAL, "")
    ranked = sorted((e for e in evidence if e.signal not in ("prior", *decided)), key=lambda e: -abs(e.contribution))
    reasons = [e.text for e in ranked if e.contribution * sign >= _WORTH_SAYING][:_MOST_REASONS]
    against = next((e.text for e in ranked if e.contribution * sign <= -_WORTH_SAYING), "")
    if "face_against_verdict" in doubts and faces:
        against = describe_face(faces)
    if declared:
        sentence = f"{declared}; by its pixels alone it counts as {'real' if pixels == 'real' else 'a deepfake'}"
    elif "little_to_see" in doubts:
        sentence = "There is next to nothing to see in this picture"
    elif reasons and against:
        sentence = f"{' and '.join(reasons)} outweigh {against}"
        sentence = sentence if len(reasons) > 1 else sentence.replace(" outweigh ", " outweighs ", 1)
    elif reasons:
        sentence = f"{' and '.join(reasons)}"
    elif against:
        sentence = f"{against}, but not enough to call it {'a deepfake' if verdict == 'real' else 'real'}"
    else:
        sentence = f"No signal speaks for or against; without one a picture counts as {verdict}"
    if match and KNOWN_CONTENT not in decided:
        sentence += f"; {match}"
    remarks = [WORDS[doubt] for doubt in doubts if doubt not in ("little_to_see", "face_against_verdict")]
    if remarks or "face_against_verdict" in doubts:
        remarks.append("a person should look")
        sentence += f"; {', '.join(remarks[:-1])}{': ' if len(remarks) > 1 else ''}{remarks[-1]}"
    return sentence[0].upper() + sentence[1:]
