"""Sends hostile images to a server beside ordinary ones: right answers, unharmed neighbours, the same processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from veridict.client import DeadlineError, DetectorClient, InvalidImageError, Result
from veridict.forensics.contract import Verdict

from .assemble import picture, save
from .kinds import Kind

#: Hostile images that are sent in the same moment, with the neighbours between them.
_AT_ONCE = 8
_REPEATS = 3
#: Kinds between two lines of the log.
_LOGGED = 80


@dataclass
class LiveResult:
    """What was wrong: answers to kinds, neighbours that got another verdict, processes that are not the same.

    ``repeated``: requests that were sent again after a deadline, which a busy machine exceeds.
    """

    sent: int = 0
    neighbours: int = 0
    repeated: int = 0
    faults: list[str] = field(default_factory=list)


def neighbours() -> dict[str, bytes]:
    """Return ordinary images by name, one in each format."""
    pixels = picture(240, 200)
    return {form: save(pixels, form, quality=90) for form in ("JPEG", "PNG", "WEBP")}


def same_part(verdict: Verdict) -> str:
    """Return what the verdicts on one image have in common: all but the request's id and the times."""
    return replace(verdict, request_id="", timings_ms={}).to_json()


def send_all(
    client: DetectorClient,
    kinds: Iterable[Kind],
    processes: Callable[[], Mapping[int, str]] = dict,
    log: Callable[[str], None] | None = None,
) -> LiveResult:
    """Send every kind among neighbours and check all answers; ``processes`` are those of the server, by process id.

    Raises:
        VeridictError: a neighbour gets no verdict before any hostile image was sent.
    """
    ordinary = neighbours()
    expected = {name: same_part(client.detect(data)) for name, data in ordinary.items()}
    before = set(processes())
    result = LiveResult()
    names = itertools.cycle(ordinary)
    for group in _groups(kinds):
        beside = [next(names) for _ in range(2)]
        images = [ordinary[beside[0]], *(kind.data for kind in group), ordinary[beside[1]]]
        answers = _answers(client, images, result)
        for kind, answer in zip(group, answers[1:-1], strict=True):
            result.sent += 1
            if fault := fault_of(kind, answer):
                result.faults.append(f"{kind.name}: {fault}")
        if log is not None and result.sent % _LOGGED < len(group):
            log(f"{result.sent} kinds sent, {len(result.faults)} faults")
        for name, answer in zip(beside, (answers[0], answers[-1]), strict=True):
            result.neighbours += 1
            if answer.verdict is None or same_part(answer.verdict) != expected[name]:
                result.faults.append(f"the neighbour {name} of {group[0].name}: {answer.error or 'another verdict'}")
    if set(processes()) != before:
        result.faults.append(f"the processes were {sorted(before)} and are {sorted(processes())}")
    return result


def _answers(client: DetectorClient, images: Sequence[bytes], result: LiveResult) -> list[Result]:
    answers = list(client.detect_many(images, concurrency=len(images)))
    for _ in range(_REPEATS):
        for place, answer in enumerate(answers):
            if isinstance(answer.error, DeadlineError):
                result.repeated += 1
                (answers[place],) = client.detect_many([images[place]])
    return answers


def fault_of(kind: Kind, answer: Result) -> str:
    """Return what is wrong with an answer, or ""."""
    if answer.verdict is not None:
        image = answer.verdict.image
        return kind.fault_of_size(image.width, image.height, image.frames)
    if isinstance(answer.error, InvalidImageError):
        return kind.fault_of_refusal(answer.error.code)
    return f"{type(answer.error).__name__}: {answer.error}"


def _groups(kinds: Iterable[Kind]) -> Iterator[list[Kind]]:
    """Yield groups of kinds; a large image goes alone, since many of them at once exceed deadlines, as they should."""
    group: list[Kind] = []
    for kind in kinds:
        if kind.large:
            yield [kind]
        else:
            group.append(kind)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group
