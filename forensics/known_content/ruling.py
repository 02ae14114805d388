"""What follows from matches with banks of known pictures for the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..contract import Evidence, KnownContent, KnownMatch
from ..logits import to_logit
from ..policy import KnownContentPolicy
from .pdq import BITS

#: The name of the evidence that a deciding match gives.
SIGNAL = "known_content"


@dataclass(frozen=True)
class KnownRuling:
    """A match that decides: the verdict, how likely it is at least, and the clause that names the match."""

    verdict: Literal["real", "deepfake"]
    probability: float
    text: str

    def to_evidence(self, logit: float) -> Evidence:
        """Return the term that takes a logit to the ruling's probability; 0 where it is beyond already."""
        least = to_logit(self.probability)
        term = max(0.0, least - logit) if self.verdict == "deepfake" else min(0.0, -least - logit)
        return Evidence(SIGNAL, None, None, 1.0, term, self.text)


def rule_known(known: KnownContent | None, policy: KnownContentPolicy) -> KnownRuling | None:
    """Return what the matches of a picture decide, None where they decide nothing; deepfake where they contradict."""
    deciding: dict[str, KnownMatch] = {}
    for match in known.matches if known else ():
        # The nearest match is the first.
        deciding.setdefault(policy.decides.get(match.disposition, ""), match)
    for verdict in ("deepfake", "real"):
        if verdict in deciding:
            return KnownRuling(verdict, policy.probability, word_match(deciding[verdict]))
    return None


def word_match(match: KnownMatch) -> str:
    """Return the clause that names a match."""
    name = match.label or match.id
    entry = f"the entry '{name}'" if name else "an entry"
    return (
        f"it matches {entry} of the bank '{match.bank}' of known content "
        f"({match.disposition}; {match.distance} of {BITS} bits differ)"
    )


def word_matches(known: KnownContent | None) -> str:
    """Return the clause that names the nearest match, "" without one."""
    return word_match(known.matches[0]) if known and known.matches else ""
