"""Tuning the image tower, with a tiny transformer in place of CLIP's and pictures made here."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from veridict.deploy.command import main
from veridict.export.train import lora
from veridict.export.train import tower as train_tower
from veridict.export.train.lora import TunedEncoder
from veridict.export.train.rine import RineSettings
from veridict.export.train.settings import TowerTraining
from veridict.export.train.tower import train_tower as tune
from veridict.export.train.tower_data import Draws, labels_of, read_tower_data
from veridict.export.train.tower_figures import choose_device

from .tiny_tower import BLOCKS, same, tiny_backbone

pytestmark = [pytest.mark.export, pytest.mark.slow]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(train_tower, "load_clip", tiny_backbone)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, encode):
    """Sinusoid textures as fake, smooth noise as real; four train sources, eight val sources in as many families."""
    root = tmp_path_factory.mktemp("tower")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:128] / 20
    lines = ["file,label,split,source,kind,caption,group"]
    for split, sources in (("train", 4), ("val", 8)):
        for number in range(sources):
            label = ("real", "fake")[number % 2]
            for i in range(3 + number if split == "train" else 3):
                if label == "fake":
                    waves = np.sin(rng.uniform(1, 6, 3) * x[..., None] + rng.uniform(1, 6, 3) * y[..., None])
                    picture = (127 + 120 * waves).astype(np.uint8)
                else:
                    picture = np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                name = f"{split}{number}-{i}.jpg"
                (root / name).write_bytes(encode(picture))
                lines.append(f"{name},{label},{split},{split}/{number},made,,{split}-family{number}")
    path = root / "labelled.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(manifest, where, **more):
    quick = TowerTraining(
        labelled=manifest,
        output=where / "tower.safetensors",
        run=where / "run",
        first_block=2,
        last_block=BLOCKS,
        rank=2,
        steps=6,
        every=2,
        half_batch=4,
        learning_rate=5e-3,
        head=RineSettings(features=8, epochs=2, half_batch=8, members=2),
        device="cpu",
        workers=0,
    )
    return replace(quick, **more)


def quiet(line):
    """Say nothing."""


def test_a_run_tells_what_the_shipping_rule_asks_and_is_deterministic(manifest, tmp_path):
    first, again, other = (
        settings(manifest, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    figures = tune(first, quiet)
    assert tune(again, quiet) == figures
    tune(other, quiet)
    a, b, c = (torch.load(s.run / "state.pt", weights_only=True)["learnt"] for s in (first, again, other))
    assert same(a, b)
    assert not same(a, c)
    assert same(load_file(first.output), load_file(again.output))
    counts = figures["images"]
    assert (counts["train"], counts["deciding"] + counts["judging"], counts["excluded"]) == (18, 24, 0)
    for tower in ("frozen", "tuned"):
        for kind in ("auc", "zero_shot_auc"):
            assert set(figures[tower][kind]) == {"clean", "random", "mean"}
    low, high = figures["gain_interval"]
    assert low <= high
    assert figures["gain"] == pytest.approx(figures["tuned"]["auc"]["mean"] - figures["frozen"]["auc"]["mean"])
    assert -1 <= figures["embedding_cosine"]["lowest"] <= figures["embedding_cosine"]["mean"] <= 1.0001
    assert 0 <= figures["category_agreement"] <= 1
    assert figures["ships"] == all(figures["rule"].values())
    lines = [json.loads(line) for line in (first.run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    state = load_file(first.output)
    assert all(name.startswith("visual.") and value.dtype == torch.float16 for name, value in state.items())
    tiny_backbone().visual.load_state_dict({name.removeprefix("visual."): v for name, v in state.items()})


@pytest.mark.parametrize("fatal", [3, 4])
def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(manifest, tmp_path, monkeypatch, fatal):
    whole, broken = (settings(manifest, tmp_path / name, patience=9) for name in ("whole", "broken"))
    figures = tune(whole, quiet)
    calls = []
    forward = lora.TunedEncoder.forward_both

    def failing(self, pixels):
        calls.append(1)
        if len(calls) > fatal:
            raise KeyboardInterrupt
        return forward(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(lora.TunedEncoder, "forward_both", failing)
        with pytest.raises(KeyboardInterrupt):
            tune(broken, quiet)
    assert torch.load(broken.run / "state.pt", weights_only=True)["step"] == fatal // 2 * 2
    assert not broken.output.exists()
    first_pass = (broken.run / "frozen.safetensors").stat().st_mtime_ns
    steps = []

    def counting(self, pixels):
        steps.append(1)
        return forward(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(lora.TunedEncoder, "forward_both", counting)
        assert tune(broken, quiet) == figures
    assert len(steps) == whole.steps - fatal // 2 * 2, "saved steps are not done again"
    assert (broken.run / "frozen.safetensors").stat().st_mtime_ns == first_pass
    one, other = (torch.load(s.run / "state.pt", weights_only=True) for s in (whole, broken))
    assert same(one["learnt"], other["learnt"])
    moments = [state["optimiser"]["state"] for state in (one, other)]
    assert set(moments[0]) == set(moments[1])
    assert all(same(moments[0][number], moments[1][number]) for number in moments[0])
    assert one["schedule"] == other["schedule"]
    assert same(load_file(whole.output), load_file(broken.output))
    assert one["best"]["step"] == other["best"]["step"]
    assert tune(broken, quiet) == figures, "nothing is left to do"
    with pytest.raises(ValueError, match="other settings"):
        tune(replace(broken, rank=3), quiet)


def test_early_stopping_keeps_the_best(manifest, tmp_path, monkeypatch):
    given = iter([0.2, 0.9, 0.8, 0.7, 0.6, 0.5])
    learnt = []

    def judged(self):
        learnt.append(self.copy_learnt())
        labels = labels_of(self.data.deciding)[:, None].repeat(2, axis=1)
        wanted = next(given)
        # as many right as the share asks for: a score that is the label for some, its opposite for the others
        flip = np.random.default_rng(0).random(labels.shape) > wanted
        return np.where(flip, 1 - labels, labels).astype(np.float32)

    monkeypatch.setattr(train_tower.Tuning, "judge_deciding", judged)
    wanted = settings(manifest, tmp_path, steps=40, every=1, patience=2)

    def start_low(*arguments):
        return measure(*arguments) | {"auc": torch.tensor(0.0)}

    measure = train_tower.measure_frozen
    monkeypatch.setattr(train_tower, "measure_frozen", start_low)
    figures = tune(wanted, quiet)
    assert (figures["steps"], figures["best_step"]) == (4, 2)
    state = torch.load(wanted.run / "state.pt", weights_only=True)
    assert same(state["best"]["learnt"], learnt[1])
    assert not same(state["learnt"], learnt[1])
    best = TunedEncoder(tiny_backbone(), range(1, BLOCKS), rank=2)
    best.updates.load_state_dict(
        {k.removeprefix("updates."): v for k, v in learnt[1].items() if k.startswith("updates.")}
    )
    halved = {name: value.half() for name, value in best.merged_state().items()}
    assert same(load_file(wanted.output), halved)


def test_where_nothing_is_gained_the_frozen_tower_is_written(manifest, tmp_path, monkeypatch):
    measure = train_tower.measure_frozen
    perfect = {"auc": torch.tensor(1.0)}
    monkeypatch.setattr(train_tower, "measure_frozen", lambda *arguments: measure(*arguments) | perfect)
    figures = tune(settings(manifest, tmp_path, steps=9, every=1, patience=2), quiet)
    assert (figures["steps"], figures["best_step"], figures["ships"]) == (2, 0, False)
    assert figures["embedding_cosine"]["mean"] > 0.9999
    frozen = {f"visual.{name}": value.half() for name, value in tiny_backbone().visual.state_dict().items()}
    assert same(load_file(settings(manifest, tmp_path).output), frozen)


def test_the_penalty_holds_the_embedding(manifest, tmp_path):
    reached = {}
    for keep in (0.0, 100.0):
        wanted = settings(manifest, tmp_path / str(keep), keep=keep, steps=12, every=12, learning_rate=2e-2)
        tune(wanted, quiet)
        reached[keep] = json.loads((wanted.run / "log.jsonl").read_text().splitlines()[-1])["cosine"]
    assert reached[100.0] > reached[0.0]


def edited(manifest, *changes):
    """Write the manifest beside itself with texts replaced."""
    text = manifest.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = manifest.with_name("edited.csv")
    path.write_text(text)
    return path


def test_sources_and_families_stand_on_one_side(manifest):
    data = read_tower_data(manifest, (), 500, 0)
    parts = [{s.family for s in part} for part in (data.train, data.deciding, data.judging)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 12
    assert {s.split for s in data.train} == {"train"}
    assert all({s.label for s in part} == {"real", "fake"} for part in (data.train, data.deciding, data.judging))
    mixed = read_tower_data(edited(manifest, ("val-family7", "train-family1")), (), 500, 0)
    assert mixed.excluded == 3
    assert all(s.source != "val/7" for s in [*mixed.deciding, *mixed.judging])
    mixed = read_tower_data(edited(manifest, (",val/7", ",train/1")), (), 500, 0)
    assert mixed.excluded == 3
    few = read_tower_data(manifest, (), 8, 0)
    assert [len(few.deciding), len(few.judging)] == [8, 8]
    assert sorted(labels_of(few.judging).tolist()) == [0] * 4 + [1] * 4


def test_draws_are_balanced_and_functions_of_their_number(manifest):
    train = read_tower_data(manifest, (), 500, 0).train
    draws = Draws(train, 8, 0.5, seed=3)
    assert [draws[i][1] for i in range(8)] == [0, 1] * 4
    assert torch.equal(draws[5][0], Draws(train, 8, 0.5, seed=3)[5][0])
    assert draws[5][0].shape == (224, 224, 3)
    clean = {draw.numpy().tobytes() for draw, _ in (Draws(train, 8, 0.0, seed=3)[i] for i in range(60))}
    assert len(clean) <= len(train), "as they are, pictures repeat"
    degraded = {draw.numpy().tobytes() for draw, _ in (Draws(train, 8, 1.0, seed=3)[i] for i in range(60))}
    assert len(degraded) == 60, "degraded, every draw is new"


def test_what_does_not_fit_is_said_in_a_sentence(manifest, tmp_path, capsys):
    wanted = settings(manifest, tmp_path)
    for change, sentence in (
        ({"first_block": 3, "last_block": 2}, "no blocks from 3 to 2"),
        ({"last_block": 9}, "blocks 1 to 4, not 2 to 9"),
        ({"rank": 0}, "rank is at least 1"),
        ({"every": 0}, "at least 1"),
        ({"sources": ("nowhere",)}, "begins with 'nowhere'"),
        ({"sources": ("train",)}, "no labelled image"),
        ({"sources": ("train/0", "val")}, "train needs real and fake"),
        ({"sources": ("train", "val/0", "val/1")}, "needs real and fake images of sources and families"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tune(replace(wanted, **change), quiet)
    missing = edited(manifest, ("train0-0.jpg", "missing.jpg"))
    with pytest.raises(ValueError, match=r"missing\.jpg cannot be read"):
        tune(replace(wanted, labelled=missing, run=tmp_path / "missing"), quiet)
    with pytest.raises(ValueError, match="loss is"):
        tune(replace(wanted, learning_rate=1e30, run=tmp_path / "wild"), quiet)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")
    command = ["train", "tower", "--labelled", str(manifest), "--output", str(tmp_path / "t"), "--last-block", "9"]
    assert main([*command, "--run", str(tmp_path / "x"), "--device", "cpu"]) == 1
    assert "veridict train tower: the tower has blocks 1 to 4" in capsys.readouterr().err


def test_the_command(manifest, tmp_path, capsys):
    options = {"--labelled": manifest, "--output": tmp_path / "t.safetensors", "--run": tmp_path / "run"}
    options |= {"--first-block": 2, "--last-block": 4, "--rank": 2, "--steps": 2, "--every": 1, "--half-batch": 2}
    options |= {"--device": "cpu", "--workers": 0, "--head-images": 8, "--val-images": 8}
    assert main(["train", "tower", *(str(part) for option in options.items() for part in option)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] == 2
    assert figures["images"]["judging"] == 8
