"""``veridict train clip``: trains the compact CLIP contrastively on a captioned manifest and on real/fake faces.

The ImageNet trunk stays frozen: a few thousand images would only narrow what it knows. Its pooled features are computed
once per augmented view; the projection and the whole text tower are then trained on them with three losses: each image
against the category prompts, against "a real image" / "a deepfake image" where its authenticity is known, and against
the captions of its batch (every equal caption is a positive, as in UniCL, Yang et al. 2022).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from . import augment, efficientnet
from .bundled import COMPACT
from .clip_model import Backbone, load_clip
from .datasets import Sample, find_folders, read_image, read_manifest
from .prompts import PHOTOGRAPHED, Prompts, read_kinds, read_prompts
from .prototypes import category_posteriors, draw_prototypes
from .weights import save_half, seed_everything

#: Categories that ImageNet has next to no classes of: its classifier calls them something else.
_NOT_IN_IMAGENET = ("human face", "plant", "document", "screenshot")
_TEMPLATES = ("{}", "a photo of a {}", "a picture of {}", "an image of a {}")


@dataclass(frozen=True)
class ClipTraining:
    """Settings of one run; the defaults are those of the bundled weights (see its model card).

    ``distil`` is the share of a picture's category label that is what the trunk's ImageNet classifier says instead, and
    ``dropout`` that of the trunk's features: both keep a few thousand pictures from outvoting a million.
    """

    manifest: Path
    faces: Path
    output: Path
    run: Path
    held_out: tuple[str, ...] = ()
    views: int = 2
    faces_per_class: int = 1500
    steps: int = 1400
    batch: int = 256
    prototypes: int = 4
    prototype_share: float = 0.15
    distil: float = 0.2
    dropout: float = 0.5
    learning_rate: float = 1e-3
    seed: int = 20261123


def synthetic_fake(image: augment.Pixels, rng: np.random.Generator) -> augment.Pixels:
    """Return a photograph with traces that generators leave: resampling grids, over-smoothing, saturated tone."""
    import cv2

    height, width = image.shape[:2]
    if rng.random() < 0.5:
        factor = rng.uniform(0.25, 0.5)
        small = augment.resize(image, max(24, int(width * factor)), max(24, int(height * factor)))
        image = augment.resize(small, width, height, cv2.INTER_NEAREST if rng.random() < 0.4 else cv2.INTER_CUBIC)
    smooth = cv2.bilateralFilter(np.ascontiguousarray(image), 7, rng.uniform(20, 60), 5).astype(np.float32)
    grey = smooth.mean(axis=2, keepdims=True)
    toned = (grey + (smooth - grey) * rng.uniform(1.1, 1.7) - 128) * rng.uniform(1.05, 1.3) + 128
    return np.asarray(np.clip(toned, 0, 255), dtype=np.uint8)


def _view(sample: Sample, size: int, rng: np.random.Generator, plain: bool) -> tuple[augment.Pixels, int]:
    """Return (pixels [size, size, 3], authenticity 0 real, 1 fake, -1 unknown) of one augmented view."""
    image = read_image(sample.path, 512)
    label = {"real": 0, "fake": 1}.get(sample.label, -1)
    if plain:
        return augment.resize(image, size, size), label
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    if sample.category in PHOTOGRAPHED:
        label = int(rng.random() < 0.35)
        if label:
            image = synthetic_fake(image, rng) if rng.random() < 0.6 else augment.self_blend(image, rng)
    image = np.ascontiguousarray(augment.random_crop(image, rng, 0.6))
    if rng.random() < 0.5:
        image = augment.degrade(image, rng)
    if rng.random() < 0.3:
        image = augment.colour_jitter(image, rng)
    return augment.resize(image, size, size), label


@torch.inference_mode()
def compute_features(
    backbone: Backbone, samples: list[Sample], views: int, seed: int, cache: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return trunk features [N, views, C] float32 and authenticity [N, views] int64; view 0 is never augmented."""
    if cache.exists():
        stored = np.load(cache)
        return torch.from_numpy(stored["features"]).float(), torch.from_numpy(stored["labels"])
    mean, std = torch.tensor(backbone.mean) * 255, torch.tensor(backbone.std) * 255
    trunk = backbone.model.visual.trunk.to(memory_format=torch.channels_last)  # twice as fast on CPUs
    rows, labels = [], []
    for start in range(0, len(samples), 16):
        pixels, truth = [], []
        for offset, sample in enumerate(samples[start : start + 16]):
            for view in range(views):
                rng = np.random.default_rng((seed, start + offset, view))
                image, label = _view(sample, backbone.size, rng, plain=view == 0)
                pixels.append(image)
                truth.append(label)
        batch = (torch.from_numpy(np.stack(pixels)).float() - mean) / std
        features = trunk(batch.permute(0, 3, 1, 2))
        rows.append(features.reshape(-1, views, features.shape[-1]).half().numpy())
        labels.append(np.array(truth).reshape(-1, views))
        if start % 960 == 0:
            print(f"features {start}/{len(samples)}", flush=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, features=np.concatenate(rows), labels=np.concatenate(labels))
    return compute_features(backbone, samples, views, seed, cache)


def collect(settings: ClipTraining) -> list[Sample]:
    """Return every sample in a fixed order: the manifest's scenes, drawn training faces, the faces' own val split."""
    kinds = read_kinds()
    scenes = [s for s in read_manifest(settings.manifest, kinds) if s.split == "train"]
    rng = np.random.default_rng(settings.seed)
    faces: dict[str, list[Sample]] = {"train": [], "val": []}
    for sample in find_folders(settings.faces):
        caption = "human face" if sample.label == "real" else "deepfake of a human face"
        face = Sample(sample.path, sample.label, sample.source, sample.split, "human face", caption)
        faces.get(sample.split, []).append(face)
    chosen = []
    for label in ("real", "fake"):
        pool = [s for s in faces["train"] if s.label == label]
        chosen += [pool[i] for i in rng.permutation(len(pool))[: settings.faces_per_class]]
    return scenes + chosen + faces["val"]


def _pick(texts: list[tuple[str, ...]], rng: np.random.Generator) -> list[str]:
    return [options[rng.integers(len(options))] for options in texts]


def _balance(category: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return sampling weights [N] that sum to 1: a category's share grows with the root of its size."""
    weights = 1.0 / np.sqrt(np.bincount(category.numpy()))[category.numpy()]
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _train_heads(
    backbone: Backbone, samples: list[Sample], features: torch.Tensor, truth: torch.Tensor, settings: ClipTraining
) -> None:
    prompts, rng = read_prompts(), np.random.default_rng(settings.seed)
    names = list(prompts.categories)
    # Prototypes are further samples: every view the same, authenticity unknown.
    extra = draw_prototypes(features.flatten(0, 1).numpy(), settings.prototypes, settings.seed)
    drawn = torch.from_numpy(extra.features)[:, None].expand(-1, features.shape[1], -1)
    features = torch.cat([features, drawn])
    truth = torch.cat([truth, torch.full(drawn.shape[:2], -1)])
    all_captions = [s.caption for s in samples] + extra.captions
    category = torch.tensor([names.index(c) for c in [s.category for s in samples] + extra.categories])
    share = torch.full((len(category),), settings.distil)
    share[[names[c] in _NOT_IN_IMAGENET for c in category.tolist()]] = 0.0
    told = torch.from_numpy(category_posteriors(features.flatten(0, 1).numpy(), names)).view(*features.shape[:2], -1)
    weights = np.concatenate(
        [
            (1 - settings.prototype_share) * _balance(category[: len(samples)]),
            settings.prototype_share * _balance(category[len(samples) :]),
        ]
    )
    model = backbone.model
    model.train()
    model.visual.trunk.eval()
    head = [p for n, p in model.named_parameters() if not n.startswith("visual.trunk.")]
    optimiser = torch.optim.AdamW(head, settings.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
    for step in range(settings.steps):
        chosen = rng.choice(len(weights), settings.batch, p=weights)
        view = rng.integers(features.shape[1], size=settings.batch)
        x = nn.functional.dropout(features[chosen, view], settings.dropout)
        image = nn.functional.normalize(model.visual.head(x), dim=-1)
        captions = [_TEMPLATES[rng.integers(len(_TEMPLATES))].format(all_captions[i]) for i in chosen]
        texts = [*_pick(prompts.classes(), rng), *dict.fromkeys(captions)]
        text = model.encode_text(backbone.tokenizer(texts), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        own, known = category[chosen], truth[chosen, view] >= 0
        by_caption = logits[:, 2 + len(names) :]
        positives = torch.tensor([texts.index(c, 2 + len(names)) - 2 - len(names) for c in captions])
        labels = nn.functional.one_hot(own, len(names))
        target = torch.lerp(labels.float(), told[chosen, view], share[chosen][:, None])
        loss = nn.functional.cross_entropy(logits[:, 2 : 2 + len(names)], target, label_smoothing=0.05)
        loss = loss + nn.functional.cross_entropy(
            logits[known][:, :2], truth[chosen, view][known], label_smoothing=0.05
        )
        loss = loss + 0.5 * nn.functional.cross_entropy(by_caption, positives)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head, 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0 or step == settings.steps - 1:
            print(f"step {step}/{settings.steps} loss {loss.item():.4f}", flush=True)
    model.eval()


@torch.inference_mode()
def embed_prompts(backbone: Backbone, prompts: Prompts) -> torch.Tensor:
    """Return the prompt bank [2 + categories, D] float32: the unit-length mean of each ensemble's embeddings."""
    rows = []
    for texts in prompts.classes():
        embeddings = backbone.model.encode_text(backbone.tokenizer(list(texts)), normalize=True)
        rows.append(nn.functional.normalize(embeddings.mean(dim=0), dim=0))
    return torch.stack(rows).float()


@torch.inference_mode()
def _validate(backbone: Backbone, samples: list[Sample], features: torch.Tensor) -> dict[str, Any]:
    from .metrics import roc_auc

    prompts = read_prompts()
    names = list(prompts.categories)
    image = nn.functional.normalize(backbone.model.visual.head(features[:, 0]), dim=-1)
    logits = backbone.model.logit_scale.exp() * image @ embed_prompts(backbone, prompts).T
    predicted = logits[:, 2:].argmax(dim=1).numpy()
    report: dict[str, Any] = {"category": {}, "authenticity": {}}
    for key in sorted({s.category for s in samples}):
        at = [i for i, s in enumerate(samples) if s.category == key]
        report["category"][key] = [len(at), float(np.mean(predicted[at] == names.index(key)))]
    hits = [predicted[i] == names.index(s.category) for i, s in enumerate(samples)]
    report["top1"] = float(np.mean(hits))
    report["top1_per_class"] = float(np.mean([v for _, v in report["category"].values()]))
    fake = logits[:, :2].softmax(dim=1)[:, 1].double().numpy()
    for source in sorted({s.source for s in samples if s.label}):
        at = [i for i, s in enumerate(samples) if s.source == source]
        labels = np.array([int(samples[i].label == "fake") for i in at])
        report["authenticity"][source] = [len(at), roc_auc(labels, fake[at])]
    return report


def train_clip(settings: ClipTraining) -> dict[str, Any]:
    """Train, write fp16 weights to ``output`` and the validation figures to ``run``/report.json, and return them."""
    seed_everything(settings.seed)
    backbone = load_clip(COMPACT, random_weights=True)
    backbone.model.visual.trunk.load_state_dict(efficientnet.imagenet_state())
    for parameter in backbone.model.visual.trunk.parameters():
        parameter.requires_grad_(False)
    samples = collect(settings)
    held = np.array([s.source in settings.held_out or s.split == "val" for s in samples])
    if unknown := set(settings.held_out) - {s.source for s in samples}:
        raise ValueError(f"no source is called {sorted(unknown)[0]!r}")
    print(f"{(~held).sum()} training and {held.sum()} validation images", flush=True)
    # One cache serves every choice of held-out sources.
    features, truth = compute_features(backbone, samples, settings.views, settings.seed, settings.run / "features.npz")
    learning = np.flatnonzero(~held)
    _train_heads(backbone, [samples[i] for i in learning], features[learning], truth[learning], settings)
    report = _validate(backbone, [s for s, h in zip(samples, held, strict=True) if h], features[held])
    (settings.run / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    metadata = {"network": COMPACT, "seed": str(settings.seed), "steps": str(settings.steps)}
    save_half(backbone.model, settings.output, metadata | {"held_out": ",".join(settings.held_out)})
    return report
