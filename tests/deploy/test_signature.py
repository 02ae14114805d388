"""Every config.pbtxt, both profiles, is held to the one signature; so are the exporter's graphs."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from veridict.deploy.manifest import default_repository
from veridict.forensics import signature as sig

REPOSITORY = default_repository()
CONFIGS = sorted(REPOSITORY.glob("*/config.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))


def read(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def model_name(path):
    return path.parent.parent.name if path.parent.name == "configs" else path.parent.name


def test_every_model_has_a_configuration_and_nothing_else_does():
    assert {p.parent.name for p in CONFIGS if p.parent.name != "configs"} == set(sig.MODELS)
    assert {model_name(p) for p in CONFIGS if p.parent.name == "configs"} == {
        *sig.ENGINES,
        sig.FACE_CNN_EXPLAIN.name,
        sig.FUSION.name,
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{model_name(p)}-{p.stem}")
def test_configuration_matches_the_signature(path):
    config, model = read(path), sig.MODELS[model_name(path)]
    assert (config.name, config.max_batch_size) == (model.name, model.max_batch_size)
    for declared, wanted in ((config.input, model.inputs), (config.output, model.outputs)):
        found = [(t.name, model_config_pb2.DataType.Name(t.data_type), tuple(t.dims)) for t in declared]
        assert found == [(t.name, f"TYPE_{t.dtype}", t.dims) for t in wanted]
    ragged = {t.name for t in config.input if t.allow_ragged_batch}
    assert ragged == {t.name for t in model.inputs if -1 in t.dims}


@pytest.mark.parametrize("name", sig.ENGINES)
def test_engine_profiles(name):
    gpu, cpu = read(REPOSITORY / name / "config.pbtxt"), read(REPOSITORY / name / "configs" / "cpu.pbtxt")
    assert (gpu.platform, gpu.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert cpu.backend == "python"
    assert gpu.model_warmup
    assert cpu.model_warmup


def test_explanations_wait_for_verdicts():
    """The GPU profile shares face_cnn's queue by priority, the CPU profile has a step of its own."""
    batching = read(REPOSITORY / "face_cnn" / "config.pbtxt").dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (
        sig.EXPLANATION_PRIORITY,
        sig.VERDICT_PRIORITY,
    )
    folder = REPOSITORY / sig.FACE_CNN_EXPLAIN.name
    (step,) = read(folder / "config.pbtxt").ensemble_scheduling.step
    assert step.model_name == sig.FACE_CNN.name
    assert read(folder / "configs" / "cpu.pbtxt").backend == "python"


STEPS = [p for p in CONFIGS if not read(p).HasField("ensemble_scheduling")]
#: Steps of the detector; ``face_cnn`` on GPUs has priorities besides, so it cannot do without a bounded queue.
ON_THE_WAY = [p for p in STEPS if model_name(p) in ("preprocess", "clip_image", "face_cnn", "fusion")]


@pytest.mark.parametrize("path", STEPS, ids=lambda p: f"{model_name(p)}-{p.stem}")
def test_every_step_batches(path):
    assert read(path).HasField("dynamic_batching")


@pytest.mark.parametrize("path", ON_THE_WAY, ids=lambda p: f"{model_name(p)}-{p.stem}")
def test_only_the_first_step_refuses(path):
    """No step of the detector bounds its queue or times out: see veridict.deploy.serving.in_flight."""
    batching = read(path).dynamic_batching
    if batching.priority_levels:
        assert batching.max_queue_delay_microseconds == 0  # Triton 2.51 miscounts when it merges waiting batches
        return
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.allow_timeout_override) == (0, 0, False)


def test_the_first_step_knows_how_much_is_too_much():
    parameters = read(REPOSITORY / "preprocess" / "config.pbtxt").parameters
    assert int(parameters["max_in_flight"].string_value) > 0
    assert float(parameters["queue_timeout_seconds"].string_value) > 0
    assert 0 < int(parameters["batch_images"].string_value) <= sig.PREPROCESS.max_batch_size
    assert int(parameters["concurrent_batches"].string_value) > 0


def test_the_profiles_of_fusion_differ_only_in_what_they_say_is_served():
    folder = REPOSITORY / sig.FUSION.name
    gpu, cpu = read(folder / "config.pbtxt"), read(folder / "configs" / "cpu.pbtxt")
    assert gpu.parameters["profile"].string_value == "gpu"
    assert cpu.parameters["profile"].string_value == "cpu"
    cpu.parameters["profile"].string_value = "gpu"
    assert gpu == cpu


def test_the_ensemble_connects_every_tensor():
    steps = read(REPOSITORY / "detector" / "config.pbtxt").ensemble_scheduling.step
    known = {t.name for t in sig.DETECTOR.inputs}
    for step in steps:
        model = sig.MODELS[step.model_name]
        assert set(step.input_map) == {t.name for t in model.inputs}
        assert set(step.output_map) <= {t.name for t in model.outputs}
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {t.name for t in sig.DETECTOR.outputs} <= known


@pytest.mark.parametrize("name", sig.ENGINES)
def test_exported_graphs_have_the_signature(name):
    import onnxruntime

    model = sig.MODELS[name]
    session = onnxruntime.InferenceSession(REPOSITORY / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    kinds = {"UINT8": "tensor(uint8)", "INT32": "tensor(int32)", "FP32": "tensor(float)"}
    for declared, wanted in ((session.get_inputs(), model.inputs), (session.get_outputs(), model.outputs)):
        assert [(t.name, t.type, tuple(t.shape[1:])) for t in declared] == [
            (t.name, kinds[t.dtype], t.dims) for t in wanted
        ]
        assert all(isinstance(t.shape[0], str) for t in declared), "the batch dimension is dynamic"


@pytest.mark.parametrize("path", sorted(Path(REPOSITORY).glob("*/1/model.py")), ids=lambda p: p.parent.parent.name)
def test_model_files_are_glue(path):
    assert len(path.read_text().splitlines()) <= 80
