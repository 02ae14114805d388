"""Torch modules of pixels [N, 224, 224, 3] whose explanations are known in closed form."""

import torch


class Linear(torch.nn.Module):
    """Logit = sum(w * pixels) + 1."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32))

    def forward(self, pixels):
        return (pixels * self.weights).sum(dim=(1, 2, 3))[:, None] + 1.0


class OneFeature(torch.nn.Module):
    """Logit = 3 * mean of one feature map, the red channel over 100: Grad-CAM is known."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 1, 1, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([0.01, 0.0, 0.0]).reshape(1, 3, 1, 1))

    def forward(self, pixels):
        return 3.0 * self.head(pixels.permute(0, 3, 1, 2)).mean(dim=(2, 3))
