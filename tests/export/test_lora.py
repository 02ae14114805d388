"""Low-rank updates of the image tower: they start as nothing, merge exactly and are all that learns."""

import pytest
import torch

from veridict.export.bundled import CLIP, CLIP_SHARDS
from veridict.export.convert.onnx_export import ImageEncoder, example_pixels
from veridict.export.models.clip_model import BUNDLED_FAMILY, load_clip
from veridict.export.models.clip_weights import read_state
from veridict.export.models.vit_tower import served_blocks
from veridict.export.models.weights import save_tensors
from veridict.export.train.lora import TunedEncoder

from .tiny_tower import tiny_backbone

pytestmark = pytest.mark.export


def shaken(encoder, seed=1):
    """Give the updates random values in place of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.updates.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder


@pytest.mark.parametrize("blocks", [(), (1, 2, 3), (0, 1), (3,)])
def test_updates_of_zero_leave_the_tower_as_it_is(blocks):
    backbone, pixels = tiny_backbone(), example_pixels(224, 3)
    with torch.inference_mode():
        wanted = ImageEncoder(backbone)(pixels)
        encoder = TunedEncoder(backbone, blocks, rank=3)
        found = encoder(pixels)
        *both, frozen = encoder.forward_both(pixels)
    for a, b, c in zip(wanted, found, both, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert torch.equal(b, c)
    assert torch.equal(frozen, found[0])


@pytest.mark.parametrize("depth", [4, 12, 24])
def test_the_tokens_are_those_that_are_served(depth):
    backbone = tiny_backbone(layers=depth)
    pixels = example_pixels(224, 2)
    with torch.inference_mode():
        wanted, found = ImageEncoder(backbone)(pixels)[1], TunedEncoder(backbone)(pixels)[1]
    assert torch.allclose(wanted, found, atol=1e-5)
    assert wanted.shape[1] == len(served_blocks(depth))


@pytest.mark.parametrize("blocks", [(1, 2, 3), (0, 2)])
def test_merged_weights_compute_what_the_updates_did(blocks):
    pixels = example_pixels(224, 3)
    encoder = shaken(TunedEncoder(tiny_backbone(), blocks, rank=3))
    plain = tiny_backbone()
    before = {name: value.clone() for name, value in plain.visual.state_dict().items()}
    state = encoder.merged_state()
    assert {name.removeprefix("visual.") for name in state} == set(before)
    plain.visual.load_state_dict({name.removeprefix("visual."): value for name, value in state.items()})
    with torch.inference_mode():
        tuned, merged, old = encoder(pixels), ImageEncoder(plain)(pixels), ImageEncoder(tiny_backbone())(pixels)
        _, _, frozen = encoder.forward_both(pixels)
    for a, b in zip(tuned, merged, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(tuned[0], old[0], atol=1e-3)
    assert torch.allclose(frozen, old[0], atol=1e-5)
    changed = {name.split(".")[2] for name in before if not torch.equal(before[name], state[f"visual.{name}"])}
    assert changed == {str(number) for number in blocks}


def test_only_updates_receive_gradients():
    encoder = shaken(TunedEncoder(tiny_backbone(), (2, 3), rank=2))
    embedding, tokens, frozen = encoder.forward_both(example_pixels(224, 2))
    assert not frozen.requires_grad
    ((embedding * frozen).sum() + tokens.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.updates.parameters())
    assert all(p.grad is None for p in encoder.visual.parameters())


def test_a_checkpoint_of_the_image_tower_alone_keeps_the_bundled_text_tower(tmp_path):
    bundled = load_clip()
    state = read_state(CLIP_SHARDS)
    path = tmp_path / "tower.safetensors"
    save_tensors({name: value.half() for name, value in state.items()}, path, {})
    assert load_clip(CLIP, path).family == BUNDLED_FAMILY, "weights that only lost precision stay in the family"
    state["visual.transformer.resblocks.7.mlp.c_fc.weight"] *= 1.01
    save_tensors({name: value.half() for name, value in state.items()}, path, {})
    tuned = load_clip(CLIP, path)
    assert tuned.family == ""
    assert tuned.scale == bundled.scale
    texts = bundled.tokenizer(["a real image"])
    assert torch.equal(tuned.tokenizer(["a real image"]), texts)
    with torch.inference_mode():
        assert torch.equal(tuned.text(texts), bundled.text(texts))
        pixels = example_pixels(224, 2)
        a, b = (ImageEncoder(backbone)(pixels)[0] for backbone in (tuned, bundled))
        wrapped = TunedEncoder(bundled, range(6, 12), rank=2)(pixels)[0]
    assert 0.9 < float((a * b).sum(dim=1).min()) < 0.99999
    assert torch.allclose(wrapped, b, atol=1e-4)
