"""CPU profile: the graph of ``face_cnn`` for explanations, on cores that verdicts leave free. GPU profile: not used."""

from veridict.deploy.serving import cpu_model
from veridict.deploy.serving.scheduling import yield_cores
from veridict.forensics.signature import FACE_CNN


class TritonPythonModel(cpu_model.TritonPythonModel):
    network_name = FACE_CNN.name

    def initialize(self, args):
        yield_cores()  # before the inference threads start: they inherit it
        super().initialize(args)
