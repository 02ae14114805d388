"""Where the bundled weights lie and what the compact CLIP is called; imports no torch."""

from pathlib import Path

COMPACT = "veridict-compact"
DATA = Path(__file__).parent / "data"
WEIGHTS = Path(__file__).parent / "weights_data"
CLIP_WEIGHTS = WEIGHTS / "clip-compact.safetensors"
FACE_WEIGHTS = WEIGHTS / "face-cnn.safetensors"
