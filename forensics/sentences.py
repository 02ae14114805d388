"""The words: a clause per signal, and the one sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence

from .contract import Evidence, Signal

#: Per signal: the clause when it speaks for deepfake, and the clause when it speaks for real.
_CLAUSES = {
    "clip": ("CLIP favoring 'deepfake'", "CLIP favoring 'real'"),
    "clip_head": ("an embedding like those of generated pictures", "an embedding like those of real pictures"),
    "clip_layers": (
        "fine structure like that of generated pictures",
        "fine structure like that of real pictures",
    ),
    "texture": (
        "texture statistics like those of generated pictures",
        "texture statistics like those of real pictures",
    ),
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
#: A contribution below this many logits changes no probability by more than about 5 points: it is not a reason.
_WORTH_SAYING = 0.2


def describe(name: str, contribution: float, signal: Signal | None) -> str:
    """Return the clause for one signal."""
    if signal is not None:
        return _FORENSIC[(name, signal.reading)]
    return _CLAUSES[name][0 if contribution > 0 else 1]


def explain(verdict: str, evidence: Sequence[Evidence], uncertain: bool) -> str:
    """Return one sentence with the (at most three) strongest reasons for the verdict, and the strongest against it."""
    sign = 1.0 if verdict == "deepfake" else -1.0
    ranked = sorted((e for e in evidence if e.signal != "prior"), key=lambda e: -abs(e.contribution))
    reasons = [e.text for e in ranked if e.contribution * sign >= _WORTH_SAYING][:3]
    against = [e.text for e in ranked if e.contribution * sign <= -_WORTH_SAYING][:1]
    sentence = _join(reasons) if reasons else f"No signal speaks strongly for or against, so it counts as {verdict}"
    if against:
        sentence += f", despite {against[0]}"
    if uncertain:
        sentence += "; the evidence is close, so a person should look"
    return sentence[0].upper() + sentence[1:]


def _join(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} with {parts[-1]}"
