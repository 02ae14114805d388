"""The face CNN: Conv2D + BatchNorm + Dropout stages, GlobalAveragePooling, Dense, on 224x224 face crops.

The first convolution gets the colour channels and three high-pass channels (pixel minus 3x3 mean, truncated). This
residual holds the traces of generators and blending and little of the content (rich models, Fridrich & Kodovsky 2012;
constrained convolutions, Bayar & Stamm 2016).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import efficientnet

SIZE = 224
#: EfficientNet-Lite0's stages up to stride 16 are kept. Deeper ones describe what an image shows, not how it was made.
STAGES = 5
#: The residual is truncated at this many grey levels (rich models truncate at 2-3 quantisation steps of 1-4 levels).
RESIDUAL_LIMIT = 12.0


class FaceCNN(nn.Module):
    """Scores face crops: uint8 or float pixels [N, H, W, 3] in 0..255 (RGB) -> logit [N, 1], positive means fake."""

    def __init__(self, width: int = 384, dropout: float = 0.3, drop_path: float = 0.0) -> None:
        """Build with random weights; ``width`` is the channel count before GlobalAveragePooling."""
        super().__init__()
        trunk = efficientnet.create_trunk(drop_path)
        old = trunk.conv_stem
        self.stem = nn.Conv2d(6, old.out_channels, 3, stride=2, padding=1, bias=False)
        self.stem_norm = trunk.bn1
        self.stages = nn.Sequential(*list(trunk.blocks.children())[:STAGES])
        channels = 112
        self.head = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, 1)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return feature maps [N, C, H/16, W/16] of pixels [N, H, W, 3]; normalisation happens here."""
        x = pixels.to(torch.float32).permute(0, 3, 1, 2)  # cast first: TensorRT does not transpose uint8
        # The 3x3 mean as two sums of shifted pixels: ONNX Runtime's AveragePool takes six times as long.
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
        local_mean = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9.0
        residual = (x - local_mean).clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT) / RESIDUAL_LIMIT
        # The residual needs float32. With half-precision weights the network runs in half precision from here on.
        x = torch.cat([x / 127.5 - 1.0, residual], dim=1).to(self.stem.weight.dtype)
        return self.head(self.stages(self.stem_norm(self.stem(x))))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [N, 1] for pixels [N, H, W, 3]; callers pass plain pixels."""
        return self._pooled_logits(self.features(pixels))

    def _pooled_logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.dense(self.dropout(features.mean(dim=(2, 3)))).float()

    def forward_with_cells(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [N, 1] and the logit of every cell [N, H/16, W/16], for training with local labels.

        The dense layer is linear, so without dropout the logit is the mean of the cells.
        """
        features = self.features(pixels)
        weight = self.dense.weight[:, :, None, None]
        cells = nn.functional.conv2d(features, weight, self.dense.bias)[:, 0]
        return self._pooled_logits(features), cells.float()

    def load_imagenet(self) -> None:
        """Load ImageNet weights; the stem's residual channels start with half the colour channels' weights."""
        state = efficientnet.imagenet_state()
        with torch.no_grad():
            colour = state["conv_stem.weight"]
            self.stem.weight.copy_(torch.cat([colour, 0.5 * colour], dim=1))
        self.stem_norm.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("bn1.")})
        prefix = "blocks."
        wanted = self.stages.state_dict()
        self.stages.load_state_dict({k: state[prefix + k] for k in wanted})


def load_face_cnn(path: Path, drop_path: float = 0.0) -> FaceCNN:
    """Return the network of a safetensors file (fp16 or fp32), in fp32 and evaluation mode."""
    from safetensors.torch import load_file

    state = load_file(path)
    model = FaceCNN(width=state["dense.weight"].shape[1], drop_path=drop_path)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    return model.eval()
