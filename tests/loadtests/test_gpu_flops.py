"""Arithmetic counted from ONNX graphs whose counts are known."""

import onnx
import pytest
from onnx import TensorProto, helper

from veridict.deploy.manifest import default_repository
from veridict.forensics import signature as sig
from veridict.loadtests.gpu.flops import count_flops

from .conftest import graph_of


@pytest.fixture
def network():
    """Convolution, flattening, Gemm with a transposed weight, MatMul: one image of 3 x 8 x 8 at a time."""
    nodes = [
        # stride 2, padded: result [N, 4, 4, 4], each value sums over 3 x 3 x 3
        helper.make_node("Conv", ["x", "kernel"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        # 2 groups: result [N, 6, 4, 4], each value sums over 2 x 1 x 1
        helper.make_node("Conv", ["a", "grouped"], ["b"], group=2),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "dense", "bias"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "last"], ["y"]),
    ]
    stored = {"kernel": [4, 3, 3, 3], "grouped": [6, 2, 1, 1], "dense": [10, 96], "bias": [10], "last": [10, 5]}
    return graph_of(nodes, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 5]}, stored)


class TestFlops:
    def test_products_and_convolutions_count_two_per_multiply_add(self, network):
        by_hand = 2 * (4 * 4 * 4 * 27 + 6 * 4 * 4 * 2 + 96 * 10 + 10 * 5)
        assert count_flops(network) == by_hand
        assert count_flops(network, batch=8) == 8 * by_hand

    def test_a_file_is_read_without_changing_it(self, network, tmp_path):
        onnx.save(network, tmp_path / "m.onnx")
        before = (tmp_path / "m.onnx").read_bytes()
        assert count_flops(tmp_path / "m.onnx") == count_flops(network)
        assert (tmp_path / "m.onnx").read_bytes() == before

    def test_attention_counts_both_its_products(self):
        nodes = [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["q", "t"], ["s"]),
            helper.make_node("MatMul", ["s", "v"], ["y"]),
        ]
        shape = ["batch", 12, 197, 64]
        model = graph_of(nodes, {"q": shape, "k": shape, "v": shape}, {"y": shape})
        assert count_flops(model, 2) == 2 * 2 * 12 * 2 * 197 * 197 * 64

    def test_a_transposed_left_operand_sums_over_its_first_dimension(self):
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)]
        model = graph_of(nodes, {"x": [7, 3]}, {"y": [3, 5]}, {"w": [7, 5]})
        assert count_flops(model, 7) == 2 * 3 * 5 * 7

    def test_shapes_between_the_nodes_are_taken_from_the_exporter_where_a_target_is_computed(self):
        value = helper.make_tensor_value_info
        nodes = [
            helper.make_node("Reshape", ["x", "target"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ]
        model = graph_of(nodes, {"x": ["batch", 2, 4]}, {"y": ["2*batch", 3]}, {"w": [4, 3]})
        model.graph.input.append(value("target", TensorProto.INT64, [2]))
        with pytest.raises(ValueError, match="the shape of 'a' at MatMul"):
            count_flops(model, 5)
        model.graph.value_info.append(value("a", TensorProto.FLOAT, ["2*batch", 4]))
        assert count_flops(model, 5) == 2 * 10 * 4 * 3

    def test_products_under_other_names_are_refused_rather_than_left_out(self):
        nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")]
        with pytest.raises(ValueError, match="Einsum"):
            count_flops(graph_of(nodes, {"x": ["batch", 3]}, {"y": ["batch", 5]}, {"w": [3, 5]}))

    def test_the_served_face_cnn_counts_as_pytorch_counts_it(self):
        torch = pytest.importorskip("torch")
        from torch.utils.flop_counter import FlopCounterMode

        from veridict.export.bundled import FACE_WEIGHTS
        from veridict.export.models.face_cnn import load_face_cnn

        network = load_face_cnn(FACE_WEIGHTS).eval()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, sig.FACE_SIZE, sig.FACE_SIZE, 3, dtype=torch.uint8))
        assert count_flops(default_repository() / "face_cnn" / "1" / "model.onnx") == counter.get_total_flops()


def test_vit_b_16_counts_what_is_known_of_it():
    """Patch embedding and twelve blocks of width 768 on 197 tokens; torchvision lists 17.56 billion multiply-adds."""
    tokens, width = ["batch", 197, 768], 768
    nodes = [helper.make_node("Conv", ["pixels", "patches"], ["p"], strides=[16, 16])]
    nodes += [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    split = helper.make_tensor("split", TensorProto.INT64, [4], [0, 0, 12, 64])
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}r"]))
        nodes.append(helper.make_node("Transpose", [f"{name}r"], [f"{name}h"], perm=order))
    join = helper.make_tensor("join", TensorProto.INT64, [3], [0, 0, 768])
    nodes += [
        helper.make_node("MatMul", ["qh", "kh"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"]),
        helper.make_node("MatMul", ["attention", "vh"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "wo"], ["o"]),
        helper.make_node("MatMul", ["o", "up"], ["u"]),
        helper.make_node("MatMul", ["u", "down"], ["y"]),
    ]
    stored = {f"w{n}": [width, width] for n in "qkvo"} | {"up": [width, 3072], "down": [3072, width]}
    stored |= {"patches": [width, 3, 16, 16]}
    inputs = {"pixels": ["batch", 3, 224, 224], "x": tokens}
    model = graph_of(nodes, inputs, {"y": tokens, "p": ["batch", width, 14, 14]}, stored)
    model.graph.initializer.extend([split, join])
    patches = 2 * 196 * width * 768
    tower = patches + 12 * (count_flops(model) - patches)
    assert tower == pytest.approx(2 * 17.56e9, rel=0.001)
