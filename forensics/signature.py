"""Tensor names, types and shapes of every served model: the one place that knows them.

A test holds every ``config.pbtxt`` (both profiles), the exporter and the client to this table. Shapes leave out the
batch dimension, as Triton's configurations do; -1 is a variable dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIP_SIZE = 224
FACE_SIZE = 224
EMBEDDING = 512
#: (blocks, width) of the class tokens.
INTERMEDIATES = (7, 768)
CONTEXT = 32
#: Faces that are looked at, the largest first; an answer says how many there were.
MAX_FACES = 32


@dataclass(frozen=True)
class Tensor:
    """One tensor: its name, Triton type (without ``TYPE_``) and dimensions without the batch dimension."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """One served model: inputs, outputs and the largest batch its scheduler may form."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int


IMAGE = Tensor("IMAGE", "STRING", (1,))
VERDICT = Tensor("VERDICT", "STRING", (1,))
FAKE_PROBABILITY = Tensor("FAKE_PROBABILITY", "FP32", (1,))
#: The wire form of :class:`veridict.forensics.observation.Observation`.
OBSERVATION = Tensor("OBSERVATION", "STRING", (1,))
#: The image's slot in the in-flight limiter: the limiter's process id, and a number.
SLOT = Tensor("SLOT", "INT64", (2,))
#: The class tokens of several blocks of CLIP's image tower.
INTERMEDIATES_OUT = Tensor("INTERMEDIATES", "FP32", INTERMEDIATES)
CLIP_PIXELS = Tensor("PIXELS", "UINT8", (CLIP_SIZE, CLIP_SIZE, 3))
FACE_PIXELS = Tensor("PIXELS", "UINT8", (FACE_SIZE, FACE_SIZE, 3))
TOKENS = Tensor("TOKENS", "INT32", (CONTEXT,))
EMBEDDING_OUT = Tensor("EMBEDDING", "FP32", (EMBEDDING,))
LOGIT = Tensor("LOGIT", "FP32", (1,))

DETECTOR = Model("detector", (IMAGE,), (VERDICT, FAKE_PROBABILITY), 32)
PREPROCESS = Model("preprocess", (IMAGE,), (OBSERVATION, SLOT), 32)
CLIP_IMAGE = Model("clip_image", (CLIP_PIXELS,), (EMBEDDING_OUT, INTERMEDIATES_OUT), 64)
CLIP_TEXT = Model("clip_text", (TOKENS,), (EMBEDDING_OUT,), 64)
FACE_CNN = Model("face_cnn", (FACE_PIXELS,), (LOGIT,), 64)
#: The same network for explanations, which wait for verdicts; see its configurations.
FACE_CNN_EXPLAIN = Model("face_cnn_explain", (FACE_PIXELS,), (LOGIT,), 64)
FUSION = Model("fusion", PREPROCESS.outputs, (VERDICT, FAKE_PROBABILITY), 32)

MODELS = {m.name: m for m in (DETECTOR, PREPROCESS, CLIP_IMAGE, CLIP_TEXT, FACE_CNN, FACE_CNN_EXPLAIN, FUSION)}
#: Models that are a TensorRT engine in the GPU profile and an ONNX graph in the CPU profile.
ENGINES = ("clip_image", "clip_text", "face_cnn")
#: Request id of a health check: ``preprocess`` refuses an image without bytes under it at once, and does not count it.
HEALTH_CHECK = "veridict-health-check"
#: Triton's request priorities (1 is served first) where verdicts and explanations share a queue.
VERDICT_PRIORITY, EXPLANATION_PRIORITY = 1, 2
