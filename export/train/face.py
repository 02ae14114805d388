"""``veridict train face-cnn``: trains the face CNN on folders of real and fake faces."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from veridict.deploy.repository import file_sha256

from ..datasets import LABELS, Sample, by_source, find_folders, read_image
from ..evaluate.metrics import roc_auc, score
from ..models.face_cnn import SIZE, FaceCNN, load_face_cnn
from ..models.weights import save_half, seed_everything
from . import augment


@dataclass(frozen=True)
class FaceTraining:
    """Settings of one run; the bundled weights' model card states theirs.

    ``start`` goes on from earlier weights in place of ImageNet's; ``emphasis`` multiplies the share of named sources.

    ``whole_fakes`` names the sources whose fakes are generated from edge to edge. Of these a share ``mosaic`` of the
    draws is four pictures side by side and a share ``mix`` two pictures in one, and their cells of 16 x 16 pixels are
    labelled one by one (``cell_weight`` in the loss): a network of which a few hundred pictures are asked piece by
    piece has less to learn by heart. ``drop_path`` is stochastic depth.
    """

    data: Path
    output: Path
    run: Path
    epochs: int = 8
    samples_per_epoch: int = 7000
    batch: int = 32
    crop: int = 160
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    self_blend: float = 0.12
    seed: int = 20261123
    imagenet: bool = True
    start: Path | None = None
    emphasis: tuple[tuple[str, float], ...] = ()
    leave_out: str = ""
    whole_fakes: tuple[str, ...] = ()
    mix: float = 0.45
    mosaic: float = 0.0
    drop_path: float = 0.0
    average: float = 0.997
    cell_weight: float = 0.5
    workers: int = 1


Draw = tuple[torch.Tensor, float, torch.Tensor]
#: Side of the square of pixels that a cell of the network's last feature map stands for, and the mark of no label.
_CELL = 16
_UNKNOWN = -1.0


class FaceSamples(Dataset[Draw]):
    """Draws sources evenly by the root of their size, classes evenly, and augments each draw on its own."""

    def __init__(self, settings: FaceTraining, samples: list[Sample]) -> None:
        """Index the samples and keep the decoded pixels in memory as they are first used."""
        self.settings = settings
        self.epoch = 0
        groups = by_source(samples)
        self.groups = [[[s for s in g if s.label == label] for label in LABELS] for g in groups.values()]
        self.whole = [source in settings.whole_fakes for source in groups]
        weights = np.sqrt([len(g) for g in groups.values()])
        weights *= [dict(settings.emphasis).get(source, 1.0) for source in groups]
        self.weights = weights / weights.sum()
        self.cache: dict[Path, augment.Pixels] = {}

    def __len__(self) -> int:
        """Return the number of draws that make an epoch."""
        return self.settings.samples_per_epoch

    def read(self, sample: Sample) -> augment.Pixels:
        """Return the decoded pixels, at most 288 on the longest side."""
        if sample.path not in self.cache:
            self.cache[sample.path] = read_image(sample.path, 288)
        return self.cache[sample.path]

    def __getitem__(self, index: int) -> Draw:
        """Return (pixels uint8 [crop, crop, 3], label 0..1, cell labels [crop/16, crop/16]).

        A pure function of (seed, epoch, index). Cells without a label are -1; of two pictures in one the label is the
        fake share.
        """
        rng = np.random.default_rng((self.settings.seed, self.epoch, index))
        chosen = rng.choice(len(self.groups), p=self.weights)
        group, whole = self.groups[chosen], self.whole[chosen]
        label = index % 2
        if whole and rng.random() < self.settings.mosaic:
            return self._mosaic(group, rng)
        blended = label == 1 and (not group[1] or rng.random() < self.settings.self_blend) and bool(group[0])
        pool = group[0] if blended else (group[label] or group[1 - label])
        sample = pool[rng.integers(len(pool))]
        image = self.read(sample)
        if blended:
            image = augment.self_blend(image, rng)
        crop = self.settings.crop
        view = augment.augment_face(image, rng, SIZE, crop)
        target = 1.0 if blended else float(LABELS[sample.label])
        cells = np.full((crop // _CELL, crop // _CELL), target if whole or target == 0 else _UNKNOWN, np.float32)
        if whole and not blended and group[0] and group[1] and rng.random() < self.settings.mix:
            pool = group[rng.integers(2)]
            other = pool[rng.integers(len(pool))]
            pasted = augment.augment_face(self.read(other), rng, SIZE, crop)
            view, mask = augment.paste_region(view, pasted, rng)
            fake = mask * LABELS[other.label] + (1.0 - mask) * target
            cells = fake.reshape(crop // _CELL, _CELL, crop // _CELL, _CELL).mean(axis=(1, 3), dtype=np.float32)
            target = float(fake.mean())
        elif blended:
            cells[:] = _UNKNOWN
        return torch.from_numpy(np.ascontiguousarray(view)), target, torch.from_numpy(cells)

    def _mosaic(self, group: list[list[Sample]], rng: np.random.Generator) -> Draw:
        """Return a draw of four pictures side by side: fakes of ``group``, real ones of it or of any other source."""
        crop = self.settings.crop
        side = crop // _CELL
        row, column = (int(rng.integers(3, side - 2)) for _ in range(2))
        view = np.empty((crop, crop, 3), np.uint8)
        cells = np.empty((side, side), np.float32)
        for rows in (slice(0, row), slice(row, side)):
            for columns in (slice(0, column), slice(column, side)):
                fake = int(rng.random() < 0.5)
                pool = group[fake]
                if not fake and rng.random() < 0.4:
                    pool = self.groups[rng.integers(len(self.groups))][0]
                sample = pool[rng.integers(len(pool))]
                height, width = ((s.stop - s.start) * _CELL for s in (rows, columns))
                tile = augment.augment_face(self.read(sample), rng, SIZE, max(height, width))
                view[rows.start * _CELL : rows.stop * _CELL, columns.start * _CELL : columns.stop * _CELL] = tile[
                    :height, :width
                ]
                cells[rows, columns] = fake
        if rng.random() < 0.5:
            view = augment.recompress(view, int(rng.integers(60, 96)), bool(rng.random() < 0.7))
        return torch.from_numpy(view), float(cells.mean()), torch.from_numpy(cells)


class WithCells(nn.Module):
    """The network as training sees it: pixels [N, H, W, 3] -> logits [N, 1] and cell logits [N, H/16, W/16]."""

    def __init__(self, network: FaceCNN) -> None:
        """Wrap the network; its parameters stay its own."""
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return self.network.forward_with_cells(pixels)


def cell_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy of the cells [N, h, w] that have a label; 0 where none has."""
    known = targets >= 0
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


@torch.inference_mode()
def predict(model: nn.Module, samples: list[Sample], batch: int = 32) -> npt.NDArray[np.float64]:
    """Return fake probabilities [N] float64 of whole files seen at 224x224."""
    model.eval()
    results = []
    for start in range(0, len(samples), batch):
        views = [augment.resize(read_image(s.path), SIZE, SIZE) for s in samples[start : start + batch]]
        logits = model(torch.from_numpy(np.stack(views)))
        results.append(torch.sigmoid(logits)[:, 0].double().numpy())
    return np.concatenate(results)


def validate(model: nn.Module, samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Return the figures per source."""
    report = {}
    for source, group in by_source(samples).items():
        labels = np.array([LABELS[s.label] for s in group])
        probabilities = predict(model, group)
        report[source] = score(labels, probabilities).to_dict() | {"roc_auc": roc_auc(labels, probabilities)}
    return report


def train_face_cnn(settings: FaceTraining) -> dict[str, dict[str, float]]:
    """Train, writing weights to ``output``, the log and resumable state to ``run``; return the last figures.

    Progress goes to standard output, one line per fifty steps; a run that is started again goes on after its last
    epoch.
    """
    from accelerate import Accelerator

    seed_everything(settings.seed)
    settings.run.mkdir(parents=True, exist_ok=True)
    samples = [s for s in find_folders(settings.data, "train") if s.source != settings.leave_out]
    validation = [s for s in find_folders(settings.data, "val")]
    if settings.leave_out:
        validation += [s for s in find_folders(settings.data, "train") if s.source == settings.leave_out]
    known = {s.source for s in samples}
    for source in [*(name for name, _ in settings.emphasis), *settings.whole_fakes]:
        if source not in known:
            raise ValueError(f"no training source is called {source!r}; there are {', '.join(sorted(known))}")
    model = (
        FaceCNN(drop_path=settings.drop_path)
        if settings.start is None
        else load_face_cnn(settings.start, settings.drop_path)
    )
    if settings.start is None and settings.imagenet:
        model.load_imagenet()
    dataset = FaceSamples(settings, samples)
    # The worker draws while the network learns; it is started anew for every epoch, so it sees the epoch's number.
    loader = DataLoader(dataset, settings.batch, drop_last=True, num_workers=settings.workers)
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    total = settings.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=total, pct_start=0.1)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    state_path = settings.run / "state.pt"
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"] + 1
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    averaged.to(accelerator.device)
    learner, optimiser, loader = accelerator.prepare(WithCells(model), optimiser, loader)
    loss_function = nn.BCEWithLogitsLoss()
    figures: dict[str, dict[str, float]] = {}
    for epoch in range(first, settings.epochs):
        dataset.epoch = epoch
        model.train()
        started, running = time.monotonic(), 0.0
        for step, (pixels, labels, cells) in enumerate(loader, 1):
            targets = labels.float() * (1 - settings.label_smoothing) + settings.label_smoothing / 2
            with accelerator.autocast():
                logits, cell_logits = learner(pixels)
                loss = loss_function(logits[:, 0], targets)
                if settings.whole_fakes:
                    smooth = settings.label_smoothing
                    soft = torch.where(cells < 0, cells, cells * (1 - smooth) + smooth / 2)
                    loss = loss + settings.cell_weight * cell_loss(cell_logits, soft)
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(model)
            running += loss.item()
            if step % 50 == 0:
                rate = step * settings.batch / (time.monotonic() - started)
                print(
                    f"epoch {epoch} step {step}/{len(loader)} loss {running / step:.4f} {rate:.1f} images/s", flush=True
                )
        figures = validate(averaged.module, validation)
        line = {"epoch": epoch, "loss": running / max(1, len(loader)), "val": figures}
        print(json.dumps(line), flush=True)
        with (settings.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        state = {"epoch": epoch, "model": model.state_dict(), "averaged": averaged.state_dict()}
        torch.save(state | {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}, state_path)
        recorded = {k: str(v) for k, v in asdict(settings).items() if k not in {"data", "output", "run", "start"}}
        fresh = "imagenet" if settings.imagenet else "random"
        recorded["start"] = fresh if settings.start is None else file_sha256(settings.start)
        save_half(averaged.module, settings.output, recorded | {"network": "veridict-face-cnn", "epoch": str(epoch)})
    return figures
