"""Paths of the bundled weights and the name of the bundled CLIP; imports no torch."""

from pathlib import Path

#: open_clip's name of the bundled CLIP. This name alone means the bundled image tower; ``CLIP:openai`` loads the hub's
#: weights.
CLIP = "ViT-B-16-quickgelu"
DATA = Path(__file__).parent / "data"
WEIGHTS = Path(__file__).parent / "weights_data"
#: The image tower, in two files below 50 MB. They lie in the served model's folder and are its graph's external data.
CLIP_SHARDS = tuple(
    Path(__file__).parent.parent / "model_repository" / "clip_image" / "1" / f"clip-vit-b-16-{half}.safetensors"
    for half in (1, 2)
)
TEXT_WEIGHTS = WEIGHTS / "clip-text.safetensors"
TEXT_VOCABULARY = WEIGHTS / "clip-text.vocab.txt"
FACE_WEIGHTS = WEIGHTS / "face-cnn.safetensors"
