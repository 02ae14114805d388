"""``veridict train face-cnn``: trains the face CNN on folders of real and fake faces."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from veridict.forensics.arrays import Float64Array

from ..datasets import LABELS, Sample, by_source, read_image
from ..evaluate.metrics import score
from ..models.face_cnn import SIZE, FaceCNN, load_face_cnn
from ..models.weights import save_half, seed_everything
from . import augment
from .face_data import FaceSamples, read_face_data
from .run_folder import load_state, save_state
from .settings import FaceTraining

#: Steps between two lines of progress.
_TELL = 50


class WithCells(nn.Module):
    """The network for training: pixels [N, H, W, 3] -> logits [N, 1] and cell logits [N, H/16, W/16]."""

    def __init__(self, network: FaceCNN) -> None:
        """Wrap the network and share its parameters."""
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return self.network.forward_with_cells(pixels)


def cell_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy over the labelled cells [N, h, w]; 0 if there are none."""
    known = targets >= 0
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


@torch.inference_mode()
def predict(model: nn.Module, samples: list[Sample], batch: int = 32) -> Float64Array:
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
        report[source] = score(labels, probabilities).to_dict()
    return report


class FaceRun:
    """One run: the network, its average, optimiser and schedule, and the epochs that are done."""

    def __init__(self, settings: FaceTraining, samples: list[Sample]) -> None:
        """Start a run, or resume one after its last finished epoch.

        Raises:
            ValueError: the run's folder holds a run of other settings.
        """
        from accelerate import Accelerator

        self.settings = settings
        self.dataset = FaceSamples(settings, samples)
        # Workers draw while the network learns. They start anew in every epoch, so they see the epoch's number.
        loader = DataLoader(self.dataset, settings.batch, drop_last=True, num_workers=settings.workers)
        self.model = _start_model(settings)
        optimiser = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        total = settings.epochs * len(loader)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=total, pct_start=0.1
        )
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
        self.log: list[dict[str, Any]] = []
        state = load_state(settings.run, settings.identity())
        if state is not None:
            for name, part in (("model", self.model), ("averaged", self.averaged), ("schedule", self.schedule)):
                part.load_state_dict(state[name])
            optimiser.load_state_dict(state["optimiser"])
            self.log = state["log"]
        self.accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
        self.model.to(self.accelerator.device, memory_format=torch.channels_last)
        self.averaged.to(self.accelerator.device)
        self.learner, self.optimiser, self.loader = self.accelerator.prepare(WithCells(self.model), optimiser, loader)
        if state is not None:
            _set_generators(state["generators"])

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.log)

    def learn_epoch(self, tell: Callable[[str], None]) -> float:
        """Train for one epoch and return its mean loss."""
        epoch, steps = self.epoch, len(self.loader)
        self.dataset.epoch = epoch
        self.model.train()
        started, running = time.monotonic(), 0.0
        for step, (pixels, labels, cells) in enumerate(self.loader, 1):
            with self.accelerator.autocast():
                loss = self._loss(pixels, labels, cells)
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            self.optimiser.step()
            self.schedule.step()
            self.averaged.update_parameters(self.model)
            running += loss.item()
            if step % _TELL == 0:
                rate = step * self.settings.batch / (time.monotonic() - started)
                tell(f"epoch {epoch} step {step}/{steps} loss {running / step:.4f} {rate:.1f} images/s")
        return running / max(1, steps)

    def _loss(self, pixels: torch.Tensor, labels: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        smooth = self.settings.label_smoothing
        logits, cell_logits = self.learner(pixels)
        targets = labels.float() * (1 - smooth) + smooth / 2
        loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets)
        if self.settings.whole_fakes:
            soft = torch.where(cells < 0, cells, cells * (1 - smooth) + smooth / 2)
            loss = loss + self.settings.cell_weight * cell_loss(cell_logits, soft)
        return loss

    def finish_epoch(self, line: dict[str, Any]) -> None:
        """Record an epoch's line in the log and write the state."""
        self.log.append(line)
        state = {"model": self.model.state_dict(), "averaged": self.averaged.state_dict()}
        state |= {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}
        save_state(self.settings.run, self.settings.identity(), state | {"generators": _get_generators()}, self.log)

    def write_weights(self) -> None:
        """Write the averaged weights."""
        recorded = self.settings.recorded() | {"network": "veridict-face-cnn", "epoch": str(self.epoch - 1)}
        save_half(self.averaged.module, self.settings.output, recorded)


def _start_model(settings: FaceTraining) -> FaceCNN:
    if settings.start is not None:
        return load_face_cnn(settings.start, settings.drop_path)
    model = FaceCNN(drop_path=settings.drop_path)
    if settings.imagenet:
        model.load_imagenet()
    return model


def _get_generators() -> dict[str, Any]:
    """Return the state of torch's generators, which draw dropout and stochastic depth."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _print(line: str) -> None:
    print(line, flush=True)


def train_face_cnn(settings: FaceTraining, tell: Callable[[str], None] = _print) -> dict[str, dict[str, float]]:
    """Train, write the weights to ``output`` and log and state to ``run``; return the last epoch's figures per source.

    ``tell`` gets a line of progress every fifty steps and the figures of every epoch. A run that was interrupted
    resumes after its last finished epoch and gives the same weights as one that was not.

    Raises:
        FileNotFoundError: a split holds no image.
        ValueError: the settings name an unknown source, or ``run`` holds a run of other settings.
    """
    seed_everything(settings.seed)
    samples, validation = read_face_data(settings)
    run = FaceRun(settings, samples)
    for epoch in range(run.epoch, settings.epochs):
        loss = run.learn_epoch(tell)
        line = {"epoch": epoch, "loss": loss, "val": validate(run.averaged.module, validation)}
        tell(json.dumps(line))
        run.finish_epoch(line)
        run.write_weights()
    run.write_weights()  # an earlier run may have ended between its last state and its weights
    figures: dict[str, dict[str, float]] = run.log[-1]["val"]
    return figures
