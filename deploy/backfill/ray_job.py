"""The Ray Data job: chunks go to a pool of actors, and what they have done comes back as it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from .chunks import ChunkWorker, Task
from .judges import JudgeSettings
from .plan import Plan
from .ray_session import Pool
from .results import PartFacts
from .storage import BackfillError

#: Chunks that one actor judges at a time: the next one begins while the last images of the other are on their way.
_CHUNKS_PER_ACTOR = 2


def judge_chunks(
    output: str, plan: Plan, tasks: Sequence[Task], settings: JudgeSettings, pool: Pool
) -> Iterator[PartFacts]:
    """Yield the facts of each chunk when its results are stored, in the order in which they end.

    An actor that dies is started again, and its chunks are judged again. Call it inside
    :func:`.ray_session.ray_session`.

    Raises:
        BackfillError: a chunk cannot be judged or stored; the others that are under way are dropped.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [asdict(task) for task in tasks]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ChunkWorker,
        fn_constructor_args=(output, plan, settings),
        num_cpus=pool.cpus_per_worker,
        compute=ray.data.ActorPoolStrategy(
            size=min(pool.workers, len(rows)),
            max_concurrent_calls_per_actor=_CHUNKS_PER_ACTOR,
            enable_true_multi_threading=True,
        ),
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        for row in batch.to_pylist():
            if row["problem"]:
                raise BackfillError(row["problem"])
            yield PartFacts.from_json(row["facts"])
