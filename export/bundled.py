"""Where the bundled weights lie and what the bundled CLIP is called; imports no torch."""

from pathlib import Path

#: The bundled CLIP, in open_clip's words; its image tower's weights are bundled, those of ``CLIP:openai`` the hub's.
CLIP = "ViT-B-16-quickgelu"
DATA = Path(__file__).parent / "data"
WEIGHTS = Path(__file__).parent / "weights_data"
#: The image tower, in two files below 50 MB: also the external data of the served graph beside which they lie.
CLIP_SHARDS = tuple(
    Path(__file__).parent.parent / "model_repository" / "clip_image" / "1" / f"clip-vit-b-16-{half}.safetensors"
    for half in (1, 2)
)
TEXT_WEIGHTS = WEIGHTS / "clip-text.safetensors"
TEXT_VOCABULARY = WEIGHTS / "clip-text.vocab.txt"
FACE_WEIGHTS = WEIGHTS / "face-cnn.safetensors"
