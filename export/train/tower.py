"""``veridict train tower``: tunes blocks of the bundled CLIP's image tower by low-rank updates, with the head.

First a head is trained on the frozen tower. Then low-rank updates (:mod:`.lora`) and head learn together, on images as
they are and freshly degraded. A cosine penalty keeps the embedding close to the frozen one, so that zero-shot labels
and categories keep their meaning. Of the sources that are not learnt from, one half decides when to stop. The other
half judges both towers, each with a head of the same recipe (:mod:`.tower_figures`).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from veridict.deploy.manifest import default_repository
from veridict.deploy.repository import PROMPT_BANK, load_prompt_bank
from veridict.forensics.arrays import Float32Array

from ..models.clip_model import Backbone, load_clip
from ..models.weights import save_tensors, seed_everything
from .lora import TunedEncoder
from .rine import RineHead
from .run_folder import check_identity, load_state, save_state
from .settings import TowerTraining
from .tower_data import Draws, TowerData, draw_images, labels_of, read_tower_data
from .tower_figures import Machine, Recipe, compare_towers, fit_recipe, see, view_aucs


def measure_frozen(
    encoder: TunedEncoder, data: TowerData, settings: TowerTraining, machine: Machine
) -> dict[str, torch.Tensor]:
    """Return the figures of the frozen tower, read from the run's folder if they are there.

    ``mean`` and ``scale`` [K, W], ``head.NAME`` of the recipe's first member (the head that tuning starts with), its
    AUC on the deciding images ``auc`` [], the recipe's ``deciding`` and ``judging`` logits [P, V], and the
    ``embeddings`` [P, V, D] of the judging images.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    path = settings.run / "frozen.safetensors"
    if path.exists():
        with safe_open(path, "pt") as stored:
            check_identity(settings.run, (stored.metadata() or {}).get("settings"), settings.identity())
        return load_file(path)
    chosen = draw_images(data.train, settings.head_images, settings.seed)
    recipe = fit_recipe(see(encoder, chosen, machine), chosen, settings.head, settings.seed)
    deciding, judging = (see(encoder, part, machine) for part in (data.deciding, data.judging))
    first = Recipe(recipe.members[:1], recipe.mean, recipe.scale)
    arrays = {
        "mean": recipe.mean,
        "scale": recipe.scale,
        "auc": np.array(view_aucs(labels_of(data.deciding), first.scores(deciding))["mean"]),
        "deciding": recipe.scores(deciding),
        "judging": recipe.scores(judging),
        "embeddings": judging.embedding,
    }
    found = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    found |= {f"head.{name}": value for name, value in recipe.members[0].state_dict().items()}
    save_tensors(found, path, {"settings": settings.identity()})
    return found


class Tuning:
    """The run: updates and head, the number of steps done, and the best state on the deciding images."""

    def __init__(
        self,
        encoder: TunedEncoder,
        frozen: dict[str, torch.Tensor],
        data: TowerData,
        settings: TowerTraining,
        machine: Machine,
    ) -> None:
        """Start at the frozen tower and its head, or resume an interrupted run of the same settings."""
        self.encoder, self.data, self.settings, self.machine = encoder, data, settings, machine
        self.mean, self.scale = (frozen[name].to(machine.device) for name in ("mean", "scale"))
        blocks, width = frozen["mean"].shape
        self.head = RineHead(blocks, width, settings.head).to(machine.device)
        self.head.load_state_dict(
            {name.removeprefix("head."): value for name, value in frozen.items() if name.startswith("head.")}
        )
        self.learnt = nn.ModuleDict({"updates": encoder.updates, "head": self.head})
        groups = [
            {"params": list(encoder.updates.parameters()), "weight_decay": 0.0},
            {"params": list(self.head.parameters()), "weight_decay": settings.head.weight_decay},
        ]
        self.optimiser = torch.optim.AdamW(groups, settings.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
        )
        self.step = 0
        self.best: dict[str, Any] = {"step": 0, "auc": float(frozen["auc"]), "learnt": self.copy_learnt()}
        self.history: list[dict[str, float]] = [{"step": 0, "auc": self.best["auc"]}]
        state = load_state(settings.run, settings.identity())
        if state is not None:
            for name in ("learnt", "optimiser", "schedule"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.best, self.history = state["step"], state["best"], state["log"]

    def copy_learnt(self) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of all that is trained."""
        return {name: value.detach().cpu().clone() for name, value in self.learnt.state_dict().items()}

    def save(self) -> None:
        """Write state and log. Generators need no state, since every step seeds its own."""
        state = {"step": self.step, "best": self.best, "learnt": self.copy_learnt()}
        state |= {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}
        save_state(self.settings.run, self.settings.identity(), state, self.history)

    def finished(self) -> bool:
        """Return whether all steps are done, or ``patience`` evaluations in a row brought no gain."""
        waited = sum(line["step"] > self.best["step"] for line in self.history)
        return self.step >= self.settings.steps or waited >= self.settings.patience

    def run(self, tell: Callable[[str], None]) -> None:
        """Learn until :meth:`finished`, then put the best updates into the encoder.

        Raises:
            ValueError: the loss is not finite.
        """
        settings, batch = self.settings, 2 * self.settings.half_batch
        if not self.finished():
            draws = Draws(self.data.train, batch, settings.degraded, settings.seed)
            numbers = range(self.step * batch, settings.steps * batch)
            losses, started = [], time.monotonic()
            for pixels, labels in DataLoader(draws, batch, sampler=numbers, num_workers=self.machine.workers):
                losses.append(self._learn(pixels.to(self.machine.device), labels.to(self.machine.device)))
                if self.step % settings.every and self.step < settings.steps:
                    continue
                means = torch.tensor(losses).mean(dim=0).tolist()
                if not all(math.isfinite(value) for value in means):
                    raise ValueError(f"the loss is {means} at step {self.step}; try a lower --learning-rate")
                rate = len(losses) * batch / (time.monotonic() - started)
                self._evaluate(means, rate, tell)
                losses, started = [], time.monotonic()
                if self.finished():
                    break
        self.learnt.load_state_dict(self.best["learnt"])

    def _learn(self, pixels: torch.Tensor, labels: torch.Tensor) -> list[float]:
        """Take one step on pixels uint8 [N, S, S, 3] and labels [N]; return the head's loss and the mean cosine."""
        settings = self.settings
        # Dropout depends on seed and step only, so a resumed run draws the same.
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{settings.seed} {self.step}".encode()).digest()[:6], "big"))
        self.head.train()
        embedding, tokens, frozen = self.encoder.forward_both(pixels)
        targets = labels * (1.0 - 2.0 * settings.head.smoothing) + settings.head.smoothing
        wrong = nn.functional.binary_cross_entropy_with_logits(self.logits(tokens), targets)
        cosine = (embedding * frozen).sum(dim=1).mean()
        self.optimiser.zero_grad()
        (wrong + settings.keep * (1.0 - cosine)).backward()
        nn.utils.clip_grad_norm_(self.learnt.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return [wrong.item(), cosine.item()]

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the head's logits [N] of class tokens [N, K, W]."""
        logits: torch.Tensor = self.head((nn.functional.normalize(tokens, dim=-1, eps=1e-6) - self.mean) / self.scale)
        return logits

    def _evaluate(self, losses: Sequence[float], rate: float, tell: Callable[[str], None]) -> None:
        auc = view_aucs(labels_of(self.data.deciding), self.judge_deciding())["mean"]
        line = {"step": self.step, "auc": auc, "loss": losses[0], "cosine": losses[1], "images_per_second": rate}
        self.history.append(line)
        if auc > self.best["auc"]:
            self.best = {"step": self.step, "auc": auc, "learnt": self.copy_learnt()}
        self.save()
        tell(json.dumps({name: round(value, 5) for name, value in line.items()}))

    @torch.inference_mode()
    def judge_deciding(self) -> Float32Array:
        """Return the head's logits [P, V] of the deciding images."""
        self.head.eval()
        seen = torch.from_numpy(see(self.encoder, self.data.deciding, self.machine).tokens)
        flat = seen.flatten(0, 1).float().to(self.machine.device)
        return self.logits(flat).cpu().numpy().reshape(seen.shape[:2])


def write_tower(encoder: TunedEncoder, path: Path, metadata: dict[str, str]) -> dict[str, torch.Tensor]:
    """Write the merged tower as fp16 safetensors in open_clip's names; return what was written."""
    state = {name: value.half().cpu() for name, value in encoder.merged_state().items()}
    save_tensors(state, path, metadata)
    return state


def load_written(backbone: Backbone, state: dict[str, torch.Tensor], half: bool) -> TunedEncoder:
    """Return the encoder of a merged state; the backbone's own weights are replaced."""
    backbone.visual.load_state_dict({name.removeprefix("visual."): value.float() for name, value in state.items()})
    return TunedEncoder(backbone, half=half)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def train_tower(settings: TowerTraining, tell: Callable[[str], None] = _tell) -> dict[str, Any]:
    """Tune, write the merged tower to ``output`` and log and state to ``run``; return the figures.

    An interrupted run resumes after its last written state and gives the same weights as one that was not interrupted.

    Raises:
        ValueError: settings, images or an earlier run do not fit; the message says why.
    """
    if not 1 <= settings.first_block <= settings.last_block:
        raise ValueError(f"no blocks from {settings.first_block} to {settings.last_block}: count from 1, upwards")
    if min(settings.steps, settings.every, settings.patience, settings.half_batch) < 1:
        raise ValueError("steps, every, patience and half_batch are at least 1")
    seed_everything(settings.seed)
    machine = Machine.choose(settings.device, settings.workers)
    data = read_tower_data(settings.labelled, settings.sources, settings.val_images, settings.seed)
    backbone, bank = load_clip(), load_prompt_bank(default_repository() / PROMPT_BANK)
    blocks = range(settings.first_block - 1, settings.last_block)
    encoder = TunedEncoder(backbone, blocks, settings.rank, settings.seed, machine.half).to(machine.device)
    tell(
        f"{len(data.train)} images to learn from, {len(data.deciding)} decide, {len(data.judging)} judge; "
        f"{data.excluded} of the val split left out: their sources are learnt from"
    )
    settings.run.mkdir(parents=True, exist_ok=True)
    frozen = measure_frozen(encoder, data, settings, machine)
    tell(f"frozen tower with its head: {float(frozen['auc']):.4f} on the deciding images")
    tuning = Tuning(encoder, frozen, data, settings, machine)
    tuning.run(tell)
    metadata = {"network": "veridict-clip-tower", "base": backbone.family, "best_step": str(tuning.best["step"])}
    names = ("first_block", "last_block", "rank", "keep", "seed")
    written = write_tower(encoder, settings.output, metadata | {name: str(getattr(settings, name)) for name in names})
    tuned = load_written(backbone, written, machine.half).to(machine.device)
    run = {"steps": tuning.step, "best_step": tuning.best["step"], "best_auc_deciding": tuning.best["auc"]}
    counts = {"train": len(data.train), "deciding": len(data.deciding), "judging": len(data.judging)}
    figures = run | {"images": counts | {"excluded": data.excluded}}
    chosen = draw_images(data.train, settings.head_images, settings.seed)
    recipe = fit_recipe(see(tuned, chosen, machine), chosen, settings.head, settings.seed)
    return figures | compare_towers(frozen, recipe, see(tuned, data.judging, machine), data.judging, bank)
