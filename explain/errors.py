"""The errors of explanations: one exception class, one stable machine code per cause."""

from __future__ import annotations

#: Every code with its sentence for people. Codes are never renamed.
CODES = {
    "explain.no_face": "no face was found, and this method explains the face CNN",
    "explain.not_applicable": "this method does not apply to this file",
    "explain.unknown_method": "there is no such method",
    "explain.bad_request": "the request is not valid",
    "explain.image": "the image was refused",
    "explain.unknown_job": "there is no such job",
    "explain.unknown_image": "the store has no image with this sha256",
    "explain.not_ready": "the job has no result yet",
    "explain.dead": "the job failed on every delivery and was moved to the dead-letter stream",
    "explain.timeout": "the job was not finished in time",
    "explain.cancelled": "the explanation was cancelled",
    "explain.over_budget": "the explanation took more seconds than its budget",
    "explain.model_unavailable": "the served face CNN cannot be reached",
    "explain.model_mismatch": "the model is not the version that was asked for",
    "explain.store": "the result store failed",
    "explain.queue": "the job queue cannot be reached",
    "explain.crashed": "every worker that ran the job crashed",
    "explain.internal": "the method failed",
}

#: Errors of the image or the request, which another try would repeat. They are stored as the job's answer.
FINAL = frozenset(
    {"explain.no_face", "explain.not_applicable", "explain.unknown_method", "explain.bad_request", "explain.image"}
)


class ExplainError(Exception):
    """There is no explanation. ``code`` is one of :data:`CODES`; ``message`` is a sentence without internal details."""

    def __init__(self, code: str, detail: str = "") -> None:
        """Build from a code of :data:`CODES`, with an optional detail such as the unknown name."""
        self.code = code
        self.message = f"{CODES[code]} ({detail})" if detail else CODES[code]
        super().__init__(code, detail)

    def __str__(self) -> str:
        """Return the code and the sentence."""
        return f"[{self.code}] {self.message}"

    @property
    def final(self) -> bool:
        """Return whether another try would fail in the same way."""
        return self.code in FINAL
