"""ONNX Runtime's side of the encoder measurement: the student of a bundle, batch 1, one thread. Prints one JSON object.

Usage: ort_peer.py BUNDLE_DIR ROUNDS
"""
import json
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

bundle, rounds = sys.argv[1], int(sys.argv[2])
manifest = json.load(open(f"{bundle}/bundle.json"))
weights = load_file(f"{bundle}/encoder.safetensors")
spec = manifest["input"]
nodes, constants = [], []


def constant(name, value):
    constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
    return name


def node(kind, inputs, name, **attributes):
    nodes.append(helper.make_node(kind, inputs, [name], **attributes))
    return name


def conv_bn(x, name, stride, act):
    """Folded, as any exporter would."""
    get = lambda part: weights[f"student.{name}.{part}"]
    scale = get("bn.weight") / np.sqrt(get("bn.running_var") + 1e-5)
    weight = get("conv.weight") * scale  # HWIO, the last axis is the output channel
    kernel = weight.shape[0]
    inputs = [x, constant(name + ".w", weight.transpose(3, 2, 0, 1)), constant(name + ".b", get("bn.bias") - get("bn.running_mean") * scale)]
    y = node("Conv", inputs, name, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4, strides=[stride, stride])
    return node("Relu", [y], name + ".relu") if act else y


def pool(x, kind, name, stride):
    """3x3; the mean is that of the pixels inside the image."""
    attributes = {"count_include_pad": 0} if kind == "AveragePool" else {}
    return node(kind, [x], name, kernel_shape=[3, 3], pads=[1] * 4, strides=[stride, stride], **attributes)


def batch_norm(x, name):
    parts = ["weight", "bias", "running_mean", "running_var"]
    inputs = [constant(f"{name}.{part}", weights[f"student.{name}.{part}"]) for part in parts]
    return node("BatchNormalization", [x, *inputs], name, epsilon=1e-5)


def operation(x, op, name, stride):
    if op == "skip":
        return x if stride == 1 else conv_bn(pool(x, "AveragePool", name + ".pool", 2), name, 1, False)
    if op in ("max_pool_3x3", "avg_pool_3x3"):
        y = pool(x, "MaxPool" if op.startswith("max") else "AveragePool", name + ".pool", stride)
        return batch_norm(y, name + ".bn")
    if op in ("conv_1x1", "conv_3x3"):
        return conv_bn(x, name, stride, False)
    weight = weights[f"student.{name}.depthwise.weight"]
    kernel, dilation = weight.shape[0], 2 if op.startswith("dil") else 1
    inputs = [x, constant(name + ".dw", weight.transpose(3, 2, 0, 1))]
    y = node(
        "Conv", inputs, name + ".depthwise", group=weight.shape[3], kernel_shape=[kernel, kernel], strides=[stride, stride],
        dilations=[dilation, dilation], pads=[dilation * (kernel // 2)] * 4,
    )
    return conv_bn(y, name, 1, False)


def residual(config):
    x = conv_bn("image", "stem", 1, True)
    for i, stage in enumerate(config["stages"]):
        x = conv_bn(x, f"stage{i}.down", stage["stride"], True)
        for b in range(stage["blocks"]):
            y = conv_bn(conv_bn(x, f"stage{i}.block{b}.first", 1, True), f"stage{i}.block{b}.second", 1, False)
            x = node("Relu", [node("Add", [x, y], f"sum{i}.{b}")], f"out{i}.{b}")
    return x


def cells(layout, genotype):
    x = "image"
    for i in range(len(layout["stem"])):
        x = conv_bn(x, f"stem.{i}", 1 if i == 0 else 2, True)
    before, previous, halve = x, x, False
    for c, kind in enumerate(layout["cells"]):
        first = pool(before, "AveragePool", f"cell{c}.halved", 2) if halve else before
        states = [conv_bn(first, f"cell{c}.input0", 1, True), conv_bn(previous, f"cell{c}.input1", 1, True)]
        for n, edges in enumerate(genotype[kind]):
            terms = []
            for edge in edges:
                stride = 2 if kind == "reduction" and edge["from"] < 2 else 1
                name = f"cell{c}.node{n}.{edge['op']}_from_{edge['from']}"
                terms.append(operation(states[edge["from"]], edge["op"], name, stride))
            total = terms[0]
            for t, term in enumerate(terms[1:]):
                total = node("Add", [total, term], f"cell{c}.node{n}.sum{t}")
            states.append(node("Relu", [total], f"cell{c}.node{n}"))
        before, previous, halve = previous, node("Concat", states[2:], f"cell{c}", axis=1), kind == "reduction"
    return previous


(family, config), = manifest["student"].items()
x = residual(config) if family == "residual" else cells(config["layout"], config["genotype"])
features = config["features"] if family == "residual" else config["layout"]["features"]
nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
linear = [constant("features.w", weights["student.features.weight"]), constant("features.b", weights["student.features.bias"])]
nodes.append(helper.make_node("Gemm", ["flat", *linear], ["features"], transB=1))
shape = [1, spec["channels"], spec["height"], spec["width"]]
graph = helper.make_graph(
    nodes,
    "student",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features])],
    constants,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
# The same ramp as on the other side, so that the features can be compared.
image = ((np.arange(np.prod(shape)) % 97) / 97.0).astype(np.float32).reshape(shape[2], shape[3], shape[1])
image = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
for _ in range(50):
    features = session.run(None, {"image": image})[0]
times = []
for _ in range(rounds):
    start = time.perf_counter()
    session.run(None, {"image": image})
    times.append((time.perf_counter() - start) * 1e3)
peer = f"ONNX Runtime {onnxruntime.__version__}"
print(json.dumps({"ms": sorted(times)[len(times) // 2], "features": features[0].tolist(), "peer": peer}))
