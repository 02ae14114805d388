"""What a worker does with one chunk: read its images, have them judged, and write their results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from veridict.client import Verdict

from .judges import JudgeSettings, Outcome
from .patience import Patience
from .plan import ImageList, Plan
from .reading import read_source
from .results import Failure, Judged, PartFacts, encode_part, part_name, stored_facts
from .storage import BackfillError, Folder


@dataclass(frozen=True)
class Task:
    """One chunk to judge; ``again``: also when it is stored already."""

    chunk: int
    again: bool = False


class ChunkWorker:
    """Judges chunk after chunk; several threads may call it, so that the next chunk begins before the last one ends."""

    def __init__(self, output: str, plan: Plan, settings: JudgeSettings) -> None:
        """Open the output folder and the judge."""
        self._folder = Folder(output)
        self._plan = plan
        self._images = ImageList(self._folder, plan)
        self._judge = settings.open()
        self._patience = Patience(settings.patience)
        self._pool = ThreadPoolExecutor(self._judge.parallel, thread_name_prefix="judge")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Judge the chunk of a row of :class:`Task`'s fields.

        Returns the chunk, its facts as JSON, and the sentence of the error that ends the run, or "".
        """
        task = Task(**row)
        try:
            facts = self.judge_chunk(task)
        except BackfillError as error:
            return {"chunk": task.chunk, "facts": "", "problem": str(error)}
        return {"chunk": task.chunk, "facts": facts.to_json(), "problem": ""}

    def judge_chunk(self, task: Task) -> PartFacts:
        """Judge a chunk and store its results, unless they are stored.

        Raises:
            BackfillError: the service, the images' store or the output is away, or other models judge than planned.
        """
        stored = None if task.again else stored_facts(self._folder, self._plan, task.chunk)
        if stored is not None:
            return stored
        sources = self._images.sources(task.chunk)
        size = self._judge.batch
        batches = [range(start, min(start + size, len(sources))) for start in range(0, len(sources), size)]
        futures = [self._pool.submit(self._judge_batch, task.chunk, batch, sources) for batch in batches]
        data, facts = encode_part(self._plan, task.chunk, _collect(futures))
        self._folder.write(part_name(task.chunk), data)
        return facts

    def _judge_batch(self, chunk: int, batch: range, sources: Sequence[str]) -> list[Judged]:
        files = [read_source(sources[place], self._patience) for place in batch]
        outcomes = iter(self._outcomes([data for data in files if isinstance(data, bytes)]))
        first = self._plan.first(chunk)
        judged = []
        for place, data in zip(batch, files, strict=True):
            index, source = first + place, sources[place]
            if isinstance(data, Failure):
                judged.append(Judged(index, source, None, None, data))
            else:
                sha256 = hashlib.sha256(data).hexdigest()
                judged.append(Judged(index, source, sha256, len(data), next(outcomes)))
        return judged

    def _outcomes(self, images: Sequence[bytes]) -> list[Outcome]:
        outcomes = self._judge.judge(images) if images else []
        for outcome in outcomes:
            if isinstance(outcome, Verdict) and outcome.models != self._plan.models:
                raise BackfillError(
                    f"the models have changed: planned {self._plan.models}, but {outcome.models} judged; "
                    "start another backfill with another --output"
                )
        return outcomes

    def close(self) -> None:
        """End waits and threads."""
        self._patience.stop()
        self._judge.close()
        self._pool.shutdown(cancel_futures=True)


def _collect(futures: Sequence[Future[list[Judged]]]) -> list[Judged]:
    """Return the results in order; after a failure what has not begun is dropped."""
    try:
        return [item for future in futures for item in future.result()]
    finally:
        for future in futures:
            future.cancel()
