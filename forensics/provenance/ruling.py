"""What follows from a file's provenance for the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ..contract import Evidence, Provenance
from ..logits import to_logit
from ..policy import ProvenancePolicy
from .wording import word_declaration

#: The name of the evidence that provenance gives.
SIGNAL = "provenance"


@dataclass(frozen=True)
class Ruling:
    """A declaration that decides: who stands behind it, the least fake probability, and the clause that names it."""

    guarantee: str
    probability: float
    text: str

    def to_evidence(self, logit: float) -> Evidence:
        """Return the term that raises a logit to the ruling's probability; 0 where it is higher already."""
        least = to_logit(self.probability)
        return Evidence(SIGNAL, None, None, 1.0, max(0.0, least - logit), self.text)


def rule(provenance: Provenance, policy: ProvenancePolicy, threshold: float) -> Ruling | None:
    """Return what a file's declaration decides, or None where it decides nothing.

    Only statements that AI made or edited the picture decide. That a camera made it never acquits. ``threshold``: the
    probability from which the verdict is deepfake.
    """
    if not policy.suffices(provenance.declares, provenance.guarantee):
        return None
    # A hundredth of the way to 1, so that rounding cannot put the answer below the threshold.
    least = max(policy.probability[provenance.guarantee], threshold + 0.01 * (1.0 - threshold))
    return Ruling(provenance.guarantee, least, word_declaration(provenance))
