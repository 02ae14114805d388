"""The words: a clause per signal, and the one sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence

from .contract import Evidence, Face, Signal

#: Per signal: the clause when it speaks for deepfake, and the clause when it speaks for real.
_CLAUSES = {
    "clip": ("CLIP favoring 'deepfake'", "CLIP favoring 'real'"),
    "tokens": ("fine structure like that of generated pictures", "fine structure like that of real pictures"),
    "face": ("a face with traces of generation or swapping", "no traces of manipulation in the faces"),
}
_FORENSIC = {
    ("ela", "low"): "unusually even compression error",
    ("ela", "normal"): "compression error as in photographs",
    ("ela", "high"): "strong compression error",
    ("blur", "low"): "low sharpness",
    ("blur", "normal"): "ordinary sharpness",
    ("blur", "high"): "unusual sharpness",
    ("noise", "low"): "low residual noise",
    ("noise", "normal"): "ordinary residual noise",
    ("noise", "high"): "high residual noise",
}
#: Why an answer is of low confidence: the code in the answer, and what the sentence adds.
DOUBTS = {
    "near_threshold": "pictures like this one are often judged wrongly",
    "little_to_see": "there is too little in the picture to judge it by",
    "unusual_picture": "it is unlike every picture the detector learnt from",
    "face_against_verdict": "one of its faces is called fake",
    "animation": "only the first frame was looked at",
}
#: A contribution below this many logits changes no probability by more than about 5 points: it is not a reason.
_WORTH_SAYING = 0.2
_MOST_REASONS = 2


def describe(name: str, contribution: float, signal: Signal | None, faces: Sequence[Face] = ()) -> str:
    """Return the clause for one signal; one that speaks of a fake face says which and how sure the face CNN is."""
    if signal is not None:
        return _FORENSIC[(name, signal.reading)]
    if name == "face" and contribution > 0 and faces:
        return describe_face(faces)
    return _CLAUSES[name][0 if contribution > 0 else 1]


def describe_face(faces: Sequence[Face]) -> str:
    """Return the clause about the most suspicious of at least one face."""
    worst = max(faces, key=lambda face: face.fake_probability)
    x, y, width, height = worst.box
    which = "a face" if len(faces) == 1 else f"one of {len(faces)} faces"
    where = f"at ({x + width // 2}, {y + height // 2})"
    return f"{which} {where} with traces of generation or swapping ({worst.fake_probability:.2f})"


def explain(verdict: str, evidence: Sequence[Evidence], doubts: Sequence[str] = (), faces: Sequence[Face] = ()) -> str:
    """Return one sentence: the two strongest reasons for the verdict, the strongest against it, and why to doubt it.

    ``doubts`` are keys of :data:`DOUBTS`.
    """
    sign = 1.0 if verdict == "deepfake" else -1.0
    ranked = sorted((e for e in evidence if e.signal != "prior"), key=lambda e: -abs(e.contribution))
    reasons = [e.text for e in ranked if e.contribution * sign >= _WORTH_SAYING][:_MOST_REASONS]
    against = next((e.text for e in ranked if e.contribution * sign <= -_WORTH_SAYING), "")
    if "face_against_verdict" in doubts and faces:
        against = describe_face(faces)
    if "little_to_see" in doubts:
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
    remarks = [DOUBTS[doubt] for doubt in doubts if doubt not in ("little_to_see", "face_against_verdict")]
    if remarks or "face_against_verdict" in doubts:
        remarks.append("a person should look")
        sentence += f"; {', '.join(remarks[:-1])}{': ' if len(remarks) > 1 else ''}{remarks[-1]}"
    return sentence[0].upper() + sentence[1:]
