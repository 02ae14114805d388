"""More than the queue holds: every request is answered, with a verdict or a typed refusal, and nothing hangs."""

import asyncio
import time

import pytest

from veridict.client import AsyncDetectorClient, ClientConfig, OverloadedError, ServerError, VeridictError

pytestmark = pytest.mark.live

SENT = 300


@pytest.mark.slow
def test_successes_and_refusals_add_up_to_what_was_sent(triton, detector, encode, cat):
    data = encode(cat[::4, ::4].copy())

    async def flood():
        config = ClientConfig(triton.url, deadline=90.0, attempts=1)
        async with AsyncDetectorClient(config=config) as client:

            async def one():
                try:
                    return await client.detect(data)
                except VeridictError as error:
                    return error

            return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(SENT))), timeout=120)

    results = asyncio.run(flood())
    refused = [r for r in results if isinstance(r, VeridictError)]
    assert len(results) == SENT
    assert any(isinstance(r, OverloadedError) for r in refused), "the queue was never full"
    assert all(isinstance(r, ServerError) for r in refused)
    assert len(refused) < SENT
    started = time.monotonic()
    assert detector.detect(data).verdict  # it recovers at once
    assert time.monotonic() - started < 10
