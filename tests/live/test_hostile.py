"""All hostile images against the served detector, among ordinary images."""

import pytest

from veridict.deploy.stub_processes import find_stubs
from veridict.loadtests.hostile.generator import hostile_images
from veridict.loadtests.hostile.live import send_all

pytestmark = pytest.mark.live
#: Of the kinds that are judged this one in so many: each costs an inference.
_JUDGED = 4


def chosen():
    """Yield every kind that is refused, and some of those that are judged."""
    count = 0
    for kind in hostile_images():
        count += kind.size is not None
        if kind.size is None or (count % _JUDGED == 0 and not kind.large):
            yield kind


@pytest.mark.slow
def test_hostile_images_get_their_answer_and_harm_no_neighbour(triton, detector):
    result = send_all(detector, chosen(), lambda: find_stubs(triton.pid))
    assert not result.faults, "\n".join(["", *result.faults])
    assert result.sent >= 150
    assert detector.ready()
