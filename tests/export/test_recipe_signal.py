"""The recipe of docs/contributing.md for a forensic signal, followed in a copy: function, row, calibrate."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from veridict.deploy.manifest import default_repository

pytestmark = [pytest.mark.export, pytest.mark.slow]

ROOT = default_repository().parent
FUNCTION = '''

def measure_contrast(working: Luma) -> Measurement:
    """Return the standard deviation of the working-size luma."""
    return Measurement(float(working.std()))
'''
ROW = """    SignalRow(
        "contrast",
        "luma",
        measure_contrast,
        {"low": "little contrast", "normal": "ordinary contrast", "high": "much contrast"},
        head="percentiles",
    ),
"""
JUDGE = """
import json, sys
from pathlib import Path
from veridict.export.pipeline import InProcessDetector
verdict, = InProcessDetector(Path(sys.argv[1])).detect([Path(sys.argv[2]).read_bytes()])
print(verdict.to_json())
"""


@pytest.fixture
def copy(small_repository, tmp_path):
    """The packages of a copy, of which only what the recipe changes is copied; returns what runs a command in it."""
    home = tmp_path / "code"
    packages = home / "veridict"
    packages.mkdir(parents=True)
    for package in ("client", "export", "deploy", "explain"):
        (packages / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "forensics", packages / "forensics", ignore=shutil.ignore_patterns("__pycache__"))
    repository = tmp_path / "repository"
    shutil.copytree(small_repository, repository)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
        )

    return packages / "forensics", repository, run


def write_images(folder, encode, cat, coffee):
    """Write 31 crops as photographs and eight fakes; return the manifest of eight crops and the fakes."""
    rng = np.random.default_rng(0)
    lines = ["file,label,split,source,kind,caption,group"]
    y, x = np.mgrid[0:300, 0:480] / 40
    for i in range(31):
        source = (cat, coffee)[i % 2]
        top, left = rng.integers(0, source.shape[0] - 249), rng.integers(0, max(1, source.shape[1] - 450))
        path = folder / "real" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.ascontiguousarray(source[top : top + 249, left : left + 449])))
        if i < 8:
            lines.append(f"real/{i}.jpg,real,cal,made/{i % 4},,,family{i % 4}")
    for i in range(8):
        waves = np.sin(rng.uniform(1, 6, 3) * x[..., None] + rng.uniform(1, 6, 3) * y[..., None])
        path = folder / "fake" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode((127 + 120 * waves).astype(np.uint8)))
        lines.append(f"fake/{i}.jpg,fake,cal,made/{i % 4},waves,,family{i % 4}")
    (folder / "labelled.csv").write_text("\n".join(lines) + "\n")
    return folder / "labelled.csv"


def test_a_forensic_signal_is_two_files_and_a_calibration(copy, tmp_path, encode, cat, coffee):
    forensics, repository, run = copy
    command = ("-m", "veridict.deploy.command")
    # 1. A function in forensics/measure.py. 2. A row in forensics/signals.py.
    measure, signals = forensics / "measure.py", forensics / "signals.py"
    measure.write_text(measure.read_text() + FUNCTION)
    table = signals.read_text()
    table = table.replace("import measure_blur,", "import measure_blur, measure_contrast,")
    assert table.count("\n)\n\nROWS") == 1
    signals.write_text(table.replace("\n)\n\nROWS", f"\n{ROW})\n\nROWS"))
    # The calibration in place does not know the signal, and is refused rather than served without it.
    refused = run(*command, "export", "--check", "--output", repository)
    assert refused.returncode == 1
    assert "no percentiles of the signal 'contrast': run veridict calibrate" in refused.stderr
    # 3. veridict calibrate.
    labelled = write_images(tmp_path / "images", encode, cat, coffee)
    quick = ("--landmarks", "16", "--folds", "2", "--qualities", "0")
    data = ("--labelled", labelled, "--photographs", tmp_path / "images" / "real")
    done = run(*command, "calibrate", "--repository", repository, *quick, *data)
    assert done.returncode == 0, done.stderr
    calibration = json.loads((repository / "fusion/1/calibration.json").read_text())
    assert "contrast" in calibration["percentiles"]
    assert all("contrast" in r["terms"] for r in calibration["fusion"]["regimes"].values())
    # From here on every answer has it: measured, read against photographs, weighed and put into words.
    judged = run("-c", JUDGE, repository, tmp_path / "images" / "real" / "0.jpg")
    assert judged.returncode == 0, judged.stderr
    verdict = json.loads(judged.stdout)
    signal = verdict["forensics"]["contrast"]
    assert signal["value"] > 0
    assert 0 <= signal["percentile"] <= 100
    (item,) = [e for e in verdict["evidence"] if e["signal"] == "contrast"]
    assert item["text"].endswith("contrast")
