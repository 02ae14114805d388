"""The served pipeline's stages in one process: the same functions, ONNX graphs and data, without Triton.

Evaluation and calibration run here when no server is named; the serving benchmark uses it as the bare computation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import check_repository, cpu_graph, load_judgement
from veridict.deploy.serving.openvino_runtime import Network
from veridict.forensics import signature as sig
from veridict.forensics.allocation import keep_freed_memory
from veridict.forensics.contract import Verdict
from veridict.forensics.decode import decode_image
from veridict.forensics.faces import resize_view
from veridict.forensics.fusion import Observation, fuse
from veridict.forensics.preprocess import Prepared, prepare

#: A network: rows in, a row of every output per row out.
Run = Callable[[npt.NDArray[np.generic]], tuple[npt.NDArray[np.float32], ...]]


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
        self._networks = networks or {
            model.name: Network(cpu_graph(repository / model.name / "1"), threads)
            for model in (sig.CLIP_IMAGE, sig.FACE_CNN)
        }
        self._pool = pool or ThreadPoolExecutor(threads)
        if needs_calibration:
            check_repository(repository, "cpu")
            self.bank, self.calibration, self.versions = load_judgement(repository)

    def embed(self, views: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return CLIP embeddings [N, D] and intermediates [N, I] of views uint8 [N, 224, 224, 3]."""
        embeddings, intermediates = self._networks[sig.CLIP_IMAGE.name](views)
        return embeddings, intermediates

    def score_faces(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return face logits [N] of crops uint8 [N, 224, 224, 3]; N may be 0."""
        if not len(crops):
            return np.zeros(0, np.float32)
        return self._networks[sig.FACE_CNN.name](crops)[0][:, 0]

    def score_whole(self, batch: Sequence[bytes]) -> npt.NDArray[np.float32]:
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
        prepared: list[Prepared] = list(self._pool.map(prepare, batch))
        embeddings, intermediates = self.embed(np.stack([p.view for p in prepared]))
        crops = [crop for p in prepared for crop in p.crops]
        logits = iter(self.score_faces(np.stack(crops)) if crops else np.zeros(0, np.float32))
        return [
            Observation(
                request_id="",
                image=p.image,
                measurements=p.measurements,
                embedding=embedding,
                intermediates=middle,
                boxes=p.boxes,
                face_logits=[float(next(logits)) for _ in p.boxes],
                timings_ms=p.timings_ms,
                faces_found=p.faces_found,
                tone=p.tone,
            )
            for p, embedding, middle in zip(prepared, embeddings, intermediates, strict=True)
        ]

    def detect(self, batch: Sequence[bytes]) -> list[Verdict]:
        """Return a verdict per encoded image.

        Raises:
            ImageError: an image is refused.
        """
        return [fuse(seen, self.bank, self.calibration, self.versions) for seen in self.observe(batch)]
