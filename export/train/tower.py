"""``veridict train tower``: tunes blocks of the bundled CLIP's image tower by low-rank updates, with the head.

A head on the frozen tower comes first; then low-rank updates (:mod:`.lora`) and head learn together, on pictures as
they are and degraded anew each time, held to the frozen embedding by a cosine penalty so that zero-shot labels and
categories keep their meaning. Pictures of sources left out decide when to stop; those of others judge, with one head
recipe on either tower (:mod:`.tower_figures`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from veridict.deploy.repository import PROMPT_BANK, default_repository, file_sha256, load_prompt_bank

from ..calibrate.token_head import HeadSettings, RineHead
from ..models.clip_model import Backbone, load_clip
from ..models.weights import seed_everything
from .lora import TunedEncoder
from .tower_data import Draws, TowerData, draw_pictures, labels_of, read_tower_data
from .tower_figures import Machine, Recipe, compare, fit_recipe, see, view_aucs

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TowerTraining:
    """Settings of one run.

    Blocks ``first_block`` to ``last_block`` (from 1) get updates of ``rank``. ``keep`` weighs the cosine penalty,
    ``degraded`` is the share of degraded draws. Every ``every`` steps the deciding pictures are judged and the state is
    written; ``patience`` such rounds without gain end the run. ``head_pictures`` teach the heads that are compared,
    ``val_pictures`` bounds each half of the validation.
    """

    labelled: Path
    output: Path
    run: Path
    sources: tuple[str, ...] = ()
    first_block: int = 7
    last_block: int = 12
    rank: int = 16
    steps: int = 1500
    every: int = 50
    patience: int = 6
    half_batch: int = 16
    learning_rate: float = 2e-4
    keep: float = 10.0
    degraded: float = 0.5
    head_pictures: int = 4096
    val_pictures: int = 512
    head: HeadSettings = field(default_factory=HeadSettings)
    seed: int = 20261201
    device: str = "auto"
    workers: int | None = None

    def identity(self) -> str:
        """Return what a resumed run must have in common with its beginning: all but places and machinery."""
        kept = {k: v for k, v in asdict(self).items() if k not in {"labelled", "output", "run", "device", "workers"}}
        return json.dumps(kept | {"manifest": file_sha256(self.labelled)}, sort_keys=True)


def measure_frozen(
    encoder: TunedEncoder, data: TowerData, settings: TowerTraining, machine: Machine
) -> dict[str, torch.Tensor]:
    """Return the first pass over the frozen tower, read from the run's folder if it is there.

    ``mean`` and ``scale`` [K, W], ``head.NAME`` of the recipe's first member (the head that tuning starts with), its
    AUC on the deciding pictures ``auc`` [], the recipe's ``deciding`` and ``judging`` logits [P, V], and the
    ``embeddings`` [P, V, D] of the judging pictures.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    path = settings.run / "frozen.safetensors"
    if path.exists():
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("settings") != settings.identity():
                raise ValueError(
                    f"{settings.run} holds a run of other settings or another manifest; name another --run"
                )
        return load_file(path)
    chosen = draw_pictures(data.train, settings.head_pictures, settings.seed)
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
    _save(found, path, {"settings": settings.identity()})
    return found


def _save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata)
    partial.replace(path)


class Tuning:
    """The run itself: updates and head, how far they are, and the best of them on the deciding pictures."""

    def __init__(
        self,
        encoder: TunedEncoder,
        frozen: dict[str, torch.Tensor],
        data: TowerData,
        settings: TowerTraining,
        machine: Machine,
    ) -> None:
        """Start at the frozen tower and its head, or where an earlier run of the same settings was ended."""
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
        self.best: dict[str, Any] = {"step": 0, "auc": float(frozen["auc"]), "learnt": self._copy()}
        self.history: list[dict[str, float]] = [{"step": 0, "auc": self.best["auc"]}]
        path = settings.run / "state.pt"
        if path.exists():
            self._load(torch.load(path, map_location="cpu", weights_only=True))

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.learnt.state_dict().items()}

    def _load(self, state: dict[str, Any]) -> None:
        self.learnt.load_state_dict(state["learnt"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.best, self.history = state["step"], state["best"], state["history"]

    def save(self) -> None:
        """Write state and log; one file holds the state, so that no kill can leave two that do not fit together.

        No generator's state is in it: every step seeds its own.
        """
        state = {name: getattr(self, name) for name in ("step", "best", "history")} | {"learnt": self._copy()}
        state |= {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}
        partial = self.settings.run / "state.partial"
        torch.save(state, partial)
        partial.replace(self.settings.run / "state.pt")
        partial.write_text("".join(json.dumps(line) + "\n" for line in self.history))
        partial.replace(self.settings.run / "log.jsonl")

    def finished(self) -> bool:
        """Return whether all steps are done, or patience is at its end."""
        waited = sum(line["step"] > self.best["step"] for line in self.history)
        return self.step >= self.settings.steps or waited >= self.settings.patience

    def run(self, tell: Callable[[str], None]) -> None:
        """Learn until :meth:`finished`, then put the best updates into the encoder.

        Raises:
            ValueError: the loss is no number any more.
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
        # Dropout becomes a function of seed and step, whatever ran before.
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
        line = {"step": self.step, "auc": auc, "loss": losses[0], "cosine": losses[1], "pictures_per_second": rate}
        self.history.append(line)
        if auc > self.best["auc"]:
            self.best = {"step": self.step, "auc": auc, "learnt": self._copy()}
        self.save()
        tell(json.dumps({name: round(value, 5) for name, value in line.items()}))

    @torch.inference_mode()
    def judge_deciding(self) -> Floats:
        """Return the head's logits [P, V] of the deciding pictures."""
        self.head.eval()
        seen = torch.from_numpy(see(self.encoder, self.data.deciding, self.machine).tokens)
        flat = seen.flatten(0, 1).float().to(self.machine.device)
        return self.logits(flat).cpu().numpy().reshape(seen.shape[:2])


def write_tower(encoder: TunedEncoder, path: Path, metadata: dict[str, str]) -> dict[str, torch.Tensor]:
    """Write the merged tower as fp16 safetensors in open_clip's names; return what was written."""
    state = {name: value.half().cpu() for name, value in encoder.merged_state().items()}
    _save(state, path, metadata)
    return state


def load_written(backbone: Backbone, state: dict[str, torch.Tensor], half: bool) -> TunedEncoder:
    """Return the encoder of a merged state; the backbone's own weights are replaced."""
    backbone.visual.load_state_dict({name.removeprefix("visual."): value.float() for name, value in state.items()})
    return TunedEncoder(backbone, half=half)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def train_tower(settings: TowerTraining, tell: Callable[[str], None] = _tell) -> dict[str, Any]:
    """Tune, write the merged tower to ``output`` and log and state to ``run``; return the figures.

    A run that is started again goes on after its last written state.

    Raises:
        ValueError: settings, pictures or an earlier run do not fit; the sentence says how.
    """
    if not 1 <= settings.first_block <= settings.last_block:
        raise ValueError(f"no blocks from {settings.first_block} to {settings.last_block}: count from 1, upwards")
    if min(settings.steps, settings.every, settings.patience, settings.half_batch) < 1:
        raise ValueError("steps, every, patience and half_batch are at least 1")
    seed_everything(settings.seed)
    machine = Machine.choose(settings.device, settings.workers)
    data = read_tower_data(settings.labelled, settings.sources, settings.val_pictures, settings.seed)
    backbone, bank = load_clip(), load_prompt_bank(default_repository() / PROMPT_BANK)
    blocks = range(settings.first_block - 1, settings.last_block)
    encoder = TunedEncoder(backbone, blocks, settings.rank, settings.seed, machine.half).to(machine.device)
    tell(
        f"{len(data.train)} pictures to learn from, {len(data.deciding)} decide, {len(data.judging)} judge; "
        f"{data.excluded} of the val split left out: their sources are learnt from"
    )
    settings.run.mkdir(parents=True, exist_ok=True)
    frozen = measure_frozen(encoder, data, settings, machine)
    tell(f"frozen tower with its head: {float(frozen['auc']):.4f} on the deciding pictures")
    tuning = Tuning(encoder, frozen, data, settings, machine)
    tuning.run(tell)
    metadata = {"network": "veridict-clip-tower", "base": backbone.family, "best_step": str(tuning.best["step"])}
    names = ("first_block", "last_block", "rank", "keep", "seed")
    written = write_tower(encoder, settings.output, metadata | {name: str(getattr(settings, name)) for name in names})
    tuned = load_written(backbone, written, machine.half).to(machine.device)
    run = {"steps": tuning.step, "best_step": tuning.best["step"], "best_auc_deciding": tuning.best["auc"]}
    counts = {"train": len(data.train), "deciding": len(data.deciding), "judging": len(data.judging)}
    figures = run | {"pictures": counts | {"excluded": data.excluded}}
    chosen = draw_pictures(data.train, settings.head_pictures, settings.seed)
    recipe = fit_recipe(see(tuned, chosen, machine), chosen, settings.head, settings.seed)
    return figures | compare(frozen, recipe, see(tuned, data.judging, machine), data.judging, bank)


#: Options that set the field of the same name: help.
_OPTIONS = {
    "first_block": "first block to tune, from 1",
    "last_block": "last block to tune",
    "rank": "rank of the updates",
    "steps": "steps at most",
    "every": "steps between evaluations, each of which writes the state",
    "patience": "evaluations without gain that end the run",
    "half_batch": "real pictures, and fake ones, of a step",
    "learning_rate": "peak of the one-cycle schedule",
    "keep": "weight of the cosine penalty that holds the embedding to the frozen one",
    "degraded": "share of draws that are degraded at random",
    "head_pictures": "pictures that teach the heads by which frozen and tuned tower are compared",
    "val_pictures": "most pictures of each half of the validation",
    "seed": "of draws, degradations, updates and dropout",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--labelled", type=Path, required=True, help="CSV manifest with labelled rows, splits train, val"
    )
    parser.add_argument("--sources", nargs="*", default=[], help="beginnings of the source names to use (default: all)")
    for name, text in _OPTIONS.items():
        default = getattr(TowerTraining, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--workers", type=int, help="processes that read pictures (default: 1 beside a CPU)")
    parser.add_argument("--output", type=Path, required=True, help="merged weights to write (.safetensors)")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/tower"), help="folder of log and state (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tune and print the figures as JSON; return 0, or 1 with the reason on standard error."""
    settings = TowerTraining(arguments.labelled, arguments.output, arguments.run, tuple(arguments.sources))
    given = {name: getattr(arguments, name) for name in (*_OPTIONS, "device", "workers")}
    try:
        figures = train_tower(replace(settings, **given))
    except (ImportError, OSError, ValueError) as error:
        print(f"veridict train tower: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    return 0
