"""Observing files for a calibration: what is kept, and that an interrupted run resumes where it was."""

import numpy as np
import pytest

from veridict.deploy.manifest import default_repository
from veridict.export.calibrate.observations import SHRUNK, observe_samples, read_quality
from veridict.export.datasets import Sample
from veridict.export.pipeline import InProcessDetector
from veridict.forensics.decode import decode_image

pytestmark = pytest.mark.export


class Interrupted:
    """A detector that counts the files it observes and is interrupted after ``most`` of them."""

    def __init__(self, detector, most=99):
        self.detector, self.most, self.count = detector, most, 0
        self.identity = detector.identity

    def observe(self, batch):
        if self.count + len(batch) > self.most:
            raise KeyboardInterrupt
        self.count += len(batch)
        return self.detector.observe(batch)


@pytest.fixture(scope="module")
def samples(tmp_path_factory, encode, cat):
    folder = tmp_path_factory.mktemp("observed")
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(encode(np.ascontiguousarray(cat[i * 8 :, : 400 + 8 * i])))
    return [Sample(path, "real", "made", "") for path in sorted(folder.iterdir())]


@pytest.mark.slow
@pytest.mark.parametrize("quality", ["clean", "random"])
def test_an_interrupted_run_resumes_after_its_last_chunk(samples, networks, tmp_path, quality):
    detector = InProcessDetector(default_repository(), needs_calibration=False, networks=networks)
    whole = observe_samples(Interrupted(detector), samples, quality, tmp_path / "whole", chunk=2)
    with pytest.raises(KeyboardInterrupt):
        observe_samples(Interrupted(detector, most=4), samples, quality, tmp_path / "broken", chunk=2)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").iterdir()}
    assert len(kept) == 2
    resumed = Interrupted(detector)
    again = observe_samples(resumed, samples, quality, tmp_path / "broken", chunk=2)
    assert resumed.count == 1, "finished chunks are read, not observed again"
    assert [seen.to_bytes() for seen in again] == [seen.to_bytes() for seen in whole]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("whole", "broken")]
    assert names[0] == names[1]


def test_qualities_change_the_file(samples):
    clean, small, degraded = (read_quality(samples[0], quality) for quality in ("clean", f"{SHRUNK}100", "random"))
    assert clean == samples[0].path.read_bytes()
    decoded = decode_image(small)
    assert max(decoded.width, decoded.height) == 100
    assert degraded == read_quality(samples[0], "random") != clean
    assert read_quality(samples[0], "random1") != degraded
