"""Training, calibration and evaluation by their own commands, on pictures made here."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from veridict.deploy.command import main
from veridict.deploy.repository import CALIBRATION, check_repository
from veridict.export.datasets import find_folders
from veridict.export.models.face_cnn import FaceCNN
from veridict.export.pipeline import InProcessDetector
from veridict.export.train.face import train_face_cnn
from veridict.export.train.face_data import FaceSamples
from veridict.export.train.settings import FaceTraining
from veridict.forensics.calibration import load_calibration

pytestmark = [pytest.mark.export, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, encode, cat, coffee, astronaut):
    """Crops of photographs as real, sinusoid textures as fake; train, val and cal splits."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:300, 0:480] / 40
    for split, count in (("train", 12), ("val", 12), ("cal", 12)):
        for label in ("real", "fake"):
            folder = root / "made" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                source = (cat, coffee)[i % 2]
                top, left = rng.integers(0, source.shape[0] - 299), rng.integers(0, max(1, source.shape[1] - 450))
                picture = source[top : top + 300, left : left + 449]
                if label == "fake":
                    waves = np.sin(rng.uniform(1, 6, 3) * x[..., None] + rng.uniform(1, 6, 3) * y[..., None])
                    picture = (127 + 120 * waves).astype(np.uint8)
                (folder / f"{i}.jpg").write_bytes(encode(np.ascontiguousarray(picture)))
    return root


@pytest.mark.slow
def test_training_goes_on_from_weights_and_names_unknown_sources(folders, tmp_path, capsys):
    first = settings(folders, tmp_path / "first", 1)
    train_face_cnn(first)
    train_face_cnn(settings(folders, tmp_path / "second", 1, start=first.output, learning_rate=1e-9))
    a, b = (load_file(tmp_path / n / "w.safetensors") for n in ("first", "second"))
    assert np.allclose(a["stem.weight"], b["stem.weight"], atol=1e-3)
    arguments = ["train", "face-cnn", "--data", str(folders), "--run", str(tmp_path / "x")]
    assert main([*arguments, "--emphasis", "nowhere=2"]) == 1
    assert "there are made" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--emphasis", "made=-1"])


def settings(folders, where, epochs, **more):
    return FaceTraining(
        data=folders,
        output=where / "w.safetensors",
        run=where,
        epochs=epochs,
        samples_per_epoch=8,
        batch=4,
        crop=64,
        imagenet=False,
        **more,
    )


@pytest.mark.slow
def test_training_is_deterministic(folders, tmp_path):
    one, other = (settings(folders, tmp_path / name, 2) for name in ("one", "other"))
    figures = train_face_cnn(one)
    assert figures["made"]["count"] == 24
    train_face_cnn(other)
    assert same_weights(one.output, other.output)


def same_weights(one, other):
    a, b = load_file(one), load_file(other)
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def same_state(a, b):
    """Return whether two states of training are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b or (a != a and b != b)


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_ends_as_if_it_had_not_been(folders, tmp_path, monkeypatch):
    whole, broken = (settings(folders, tmp_path / n, 3, drop_path=0.2, workers=0) for n in ("whole", "broken"))
    figures = train_face_cnn(whole)
    forward, steps = FaceCNN.forward_with_cells, []

    def run(most):
        """Train ``broken``; the step after ``most`` steps is interrupted."""
        steps.clear()

        def counting(self, pixels):
            if len(steps) == most:
                raise KeyboardInterrupt
            steps.append(1)
            return forward(self, pixels)

        with monkeypatch.context() as patch:
            patch.setattr(FaceCNN, "forward_with_cells", counting)
            return train_face_cnn(broken)

    with pytest.raises(KeyboardInterrupt):  # in the second of three epochs of two steps
        run(3)
    assert len((broken.run / "log.jsonl").read_text().splitlines()) == 1
    assert same_state(run(99), figures)
    assert len(steps) == 4, "the finished epoch is not done again, the interrupted one is"
    states = [torch.load(s.run / "state.pt", weights_only=True) for s in (whole, broken)]
    assert set(states[0]) >= {"model", "averaged", "optimiser", "schedule", "generators", "log"}
    assert same_state(*states)
    assert same_weights(whole.output, broken.output)
    # A run that was killed after its last state and before its weights writes them now.
    broken.output.unlink()
    assert same_state(run(0), figures)
    assert same_weights(whole.output, broken.output)
    with pytest.raises(ValueError, match="other settings"):
        train_face_cnn(replace(broken, drop_path=0.1))


def test_averaging_weights_by_command(folders, tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 2)):
        train_face_cnn(settings(folders, tmp_path / name, 1, seed=seed))
    files = [str(tmp_path / name / "w.safetensors") for name in ("a", "b")]
    out = tmp_path / "mean.safetensors"
    assert main(["train", "average", "--weights", *files, "--output", str(out)]) == 0
    a, b, mean = (load_file(path) for path in (*files, out))
    assert np.allclose(mean["dense.weight"], (a["dense.weight"].astype(float) + b["dense.weight"]) / 2, atol=1e-3)
    assert not np.array_equal(mean["dense.weight"], a["dense.weight"])
    assert main(["train", "average", "--weights", files[0], "--output", str(out)]) == 1
    assert "at least two" in capsys.readouterr().err


def test_cells_of_pictures_in_one_are_labelled(folders, tmp_path):
    wanted = settings(folders, tmp_path, 1, whole_fakes=("made",), mix=1.0, self_blend=0.0)
    draws = FaceSamples(wanted, find_folders(folders, "train"))
    mixed = [draws[i] for i in range(8)]
    for pixels, target, cells in mixed:
        assert pixels.shape == (64, 64, 3)
        assert cells.shape == (4, 4)
        assert 0 <= float(cells.min()) <= float(cells.max()) <= 1
        assert target == pytest.approx(float(cells.mean()), abs=1e-6)
    assert any(0 < target < 1 for _, target, _ in mixed)
    unknown = FaceSamples(settings(folders, tmp_path, 1), find_folders(folders, "train"))[1]
    assert unknown[1] == 1.0
    assert float(unknown[2].max()) == -1.0, "of a fake that may be a swap no cell is known"
    with pytest.raises(ValueError, match="there are made"):
        train_face_cnn(settings(folders, tmp_path, 1, whole_fakes=("nowhere",)))


def test_calibration_and_evaluation_by_command(folders, small_repository, tmp_path, capsys, monkeypatch):
    repository = shutil.copytree(small_repository, tmp_path / "repository")
    manifest = folders / "labelled.csv"
    lines = ["file,label,split,source,kind,caption,group"]
    for path in sorted(folders.rglob("*.jpg")):
        split, label = path.parts[-3], path.parts[-2]
        number = int(path.stem) % 4
        lines.append(f"{path.relative_to(folders)},{label},{split},made/{number},StyleGAN2,,family{number}")
    manifest.write_text("\n".join(lines) + "\n")
    common = ["--repository", str(repository)]
    quick = ["--components", "32", "--folds", "3", "--cache", str(tmp_path / "cache")]
    photographs = str(folders / "made" / "cal" / "real")
    wanted = ["calibrate", *common, *quick, "--labelled", str(manifest), "--split", "cal"]
    assert main([*wanted, "--photographs", photographs]) == 1
    assert "too few photographs" in capsys.readouterr().err
    photographs = [str(folders / "made" / split / "real") for split in ("train", "val", "cal")]
    assert main([*wanted, "--photographs", *photographs, "--report", str(tmp_path / "r.json")]) == 0
    assert "| clean | all | 24 |" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["summary"]) == {"clean", "web", "hard"}
    assert report["summary"]["clean"]["all"]["roc_auc"] > 0.9
    assert report["generators"]["StyleGAN"]["clean"]["fakes"] == 12
    check_repository(repository, "cpu")
    before = load_calibration(repository / CALIBRATION)
    assert before.source["images"]["made/fake"] == 12
    assert before.source["families"] == 4
    # Observations are kept: the same command again reads them, observes nothing and gives the same calibration.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    with monkeypatch.context() as patch:
        patch.delattr(InProcessDetector, "observe")
        assert main([*wanted, "--photographs", *photographs]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    assert load_calibration(repository / CALIBRATION).version == before.version
    capsys.readouterr()
    html = tmp_path / "report.html"
    common += ["--data", str(folders)]
    wanted = ["--split", "val", "--tiers", "clean,hard", "--json", "--report", str(html)]
    assert main(["evaluate", *common, *wanted]) == 0
    document = json.loads(capsys.readouterr().out)
    tiers, page = document["tiers"], html.read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', page)  # nothing is fetched
    assert set(tiers) == set(document["summary"]) == {"clean", "hard"}
    made = tiers["clean"]["made"]
    assert made["count"] == 24
    assert made["signals"]["fused"]["roc_auc"] > 0.9
    assert made["signals"]["face_whole"]["count"] == 24
    assert sum(made["confusion"].values()) == 24
    assert made["best"]["accuracy"] >= made["accuracy"]
    seen = {path.read_bytes() for path in folders.rglob("cal/*/*.jpg")}  # some crops are drawn twice
    assert made["fitted"] == sum(path.read_bytes() in seen for path in folders.rglob("val/*/*.jpg")) < 24
    assert main(["evaluate", *common, "--split", "cal", "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiers"]["clean"]["made"]["fitted"] == 10
    by_manifest = ["evaluate", "--repository", str(repository), "--labelled", str(manifest), "--split", "val"]
    assert main(by_manifest) == 0
    assert "| StyleGAN | 12 |" in capsys.readouterr().out
    assert main([*by_manifest, "--sources", "elsewhere"]) == 1
    assert "begins with 'elsewhere'" in capsys.readouterr().err


@pytest.mark.slow
def test_categories_by_command(folders, tmp_path, capsys):
    lines = ["file,label,split,source,kind,caption"]
    for path in sorted(folders.rglob("val/real/*.jpg")):
        lines.append(f"{path.relative_to(folders)},x,train,made,animal,")
    (folders / "categories.csv").write_text("\n".join(lines) + "\n")
    manifest = str(folders / "categories.csv")
    assert main(["evaluate", "--categories", manifest, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["clean"]
    assert report["count"] == 12
    animal = report["categories"]["animal"]
    assert animal["count"] == 12
    assert 12 * animal["top1"] + sum(animal["mistaken_for"].values()) <= 12
    assert main(["evaluate", "--categories", manifest, "--limit", "3"]) == 0
    assert "| all images | 3 |" in capsys.readouterr().out
    assert main(["evaluate", "--categories", manifest, "--sources", "elsewhere"]) == 1
    assert "no source 'elsewhere'" in capsys.readouterr().err


def test_usage_errors_of_the_commands(tmp_path, capsys):
    assert main(["evaluate", "--data", str(tmp_path), "--tiers", "nonsense"]) == 2
    assert main(["evaluate", "--data", str(tmp_path)]) == 1
    assert main(["train", "face-cnn", "--data", str(tmp_path), "--run", str(tmp_path)]) == 1
    assert "no images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.live
def test_evaluation_against_a_server(triton, folders, capsys):
    assert main(["evaluate", "--data", str(folders), "--split", "val", "--url", triton.url]) == 0
    assert "| clean | made | 24 |" in capsys.readouterr().out
