"""A tiny vision transformer in place of CLIP's image tower, for the tests of its tuning."""

import torch

from veridict.export.models.clip_model import Backbone
from veridict.export.torch_setup import import_open_clip

BLOCKS = 4


def tiny_backbone(seed=0, layers=BLOCKS):
    torch.manual_seed(seed)
    import_open_clip()
    from open_clip.transformer import VisionTransformer

    visual = VisionTransformer(224, 56, 64, layers, 2, 2.0, output_dim=512).eval()
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    return Backbone("tiny", "tiny:made", visual, torch.nn.Identity(), None, 100.0, 224, 77, mean, std)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)
