"""The served pipeline's stages in one process: the same functions, ONNX graphs and data, without Triton.

Evaluation and calibration run here when no server is named; the serving benchmark uses it as the bare computation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from veridict.deploy.manifest import FACE_FINDER, Manifest, read_manifest
from veridict.deploy.repository import check_repository, load_judgement
from veridict.deploy.serving.cpu_runtime import load_network
from veridict.forensics import signature as sig
from veridict.forensics.allocation import keep_freed_memory
from veridict.forensics.arrays import AnyArray, Float32Array, Pixels
from veridict.forensics.contract import Verdict
from veridict.forensics.decode import decode_image
from veridict.forensics.faces import resize_view
from veridict.forensics.fusion import fuse
from veridict.forensics.observation import Observation
from veridict.forensics.preprocess import Prepared, prepare
from veridict.forensics.stability import check_stability

#: A network: rows in, a row of every output per row out.
Run = Callable[[AnyArray], tuple[Float32Array, ...]]


def load_networks(manifest: Manifest, threads: int) -> dict[str, Run]:
    """Return the networks of a verdict as the CPU profile serves them, by model name.

    Raises:
        RepositoryError: the manifest names no graph for the CPU profile.
    """
    names = (sig.CLIP_IMAGE.name, sig.FACE_CNN.name)
    return {name: load_network(manifest.graph(name, "cpu"), threads) for name in names}


class InProcessDetector:
    """Judges batches of encoded images with the CPU profile's networks.

    Raises (on building):
        RepositoryError: the repository is incomplete or altered.
    """

    def __init__(
        self,
        repository: Path,
        threads: int = 2,
        needs_calibration: bool = True,
        networks: Mapping[str, Run] | None = None,
        pool: Executor | None = None,
    ) -> None:
        """Load the networks; without calibration only :meth:`observe` works.

        ``networks`` (by model name, rows in, outputs out) and the ``pool`` that prepares images replace our runtime on
        ``threads`` threads.
        """
        keep_freed_memory()
        manifest = read_manifest(repository)
        self._networks = networks or load_networks(manifest, threads)
        #: Changes with every network that an observation depends on.
        self.identity = "-".join(
            manifest.version(name, "cpu") for name in (sig.CLIP_IMAGE.name, sig.FACE_CNN.name, FACE_FINDER)
        )
        self._pool = pool or ThreadPoolExecutor(threads)
        if needs_calibration:
            check_repository(repository, "cpu")
            self.judgement = load_judgement(repository)

    def embed(self, views: Pixels) -> tuple[Float32Array, Float32Array]:
        """Return CLIP embeddings [N, D] and class tokens [N, K, W] of views uint8 [N, 224, 224, 3]."""
        embeddings, tokens = self._networks[sig.CLIP_IMAGE.name](views)
        return embeddings, tokens

    def score_faces(self, crops: Pixels) -> Float32Array:
        """Return face logits [N] of crops uint8 [N, 224, 224, 3]; N may be 0."""
        if not len(crops):
            return np.zeros(0, np.float32)
        return self._networks[sig.FACE_CNN.name](crops)[0][:, 0]

    def score_whole(self, batch: Sequence[bytes]) -> Float32Array:
        """Return the face CNN's logits [N] of whole files squeezed to its input: for files that are face crops.

        Raises:
            ImageError: an image is refused.
        """
        return self.score_faces(np.stack([resize_view(decode_image(data).pixels, sig.FACE_SIZE) for data in batch]))

    def observe(self, batch: Sequence[bytes]) -> list[Observation]:
        """Return everything that fusion needs, one observation per encoded image.

        Raises:
            ImageError: an image is refused.
        """
        return self._score(list(self._pool.map(prepare, batch)))

    def _score(self, prepared: Sequence[Prepared]) -> list[Observation]:
        embeddings, tokens = self.embed(np.stack([p.view for p in prepared]))
        crops = [crop for p in prepared for crop in p.crops]
        logits = self.score_faces(np.stack(crops)) if crops else np.zeros(0, np.float32)
        faces = np.split(logits, np.cumsum([len(p.crops) for p in prepared])[:-1])
        rows = zip(prepared, embeddings, tokens, faces, strict=True)
        return [p.observation.with_scores(embedding, middle, found) for p, embedding, middle, found in rows]

    def detect(self, batch: Sequence[bytes]) -> list[Verdict]:
        """Return a verdict per encoded image.

        Raises:
            ImageError: an image is refused.
        """
        observations = check_stability(
            self.observe(batch),
            self.judgement,
            lambda place: prepare(batch[place], alterations=True).alterations,
            self._score,
        )
        return [fuse(observation, self.judgement) for observation in observations]
