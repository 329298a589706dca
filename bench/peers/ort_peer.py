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
config, spec = manifest["student"], manifest["input"]
nodes, constants = [], []


def constant(name, value):
    constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
    return name


def conv_bn(x, name, stride, act):
    """Folded, as any exporter would."""
    get = lambda part: weights[f"student.{name}.{part}"]
    scale = get("bn.weight") / np.sqrt(get("bn.running_var") + 1e-5)
    weight = get("conv.weight") * scale  # HWIO, the last axis is the output channel
    inputs = [x, constant(name + ".w", weight.transpose(3, 2, 0, 1)), constant(name + ".b", get("bn.bias") - get("bn.running_mean") * scale)]
    nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride]))
    if not act:
        return name
    nodes.append(helper.make_node("Relu", [name], [name + ".relu"]))
    return name + ".relu"


x = conv_bn("image", "stem", 1, True)
for i, stage in enumerate(config["stages"]):
    x = conv_bn(x, f"stage{i}.down", stage["stride"], True)
    for b in range(stage["blocks"]):
        y = conv_bn(conv_bn(x, f"stage{i}.block{b}.first", 1, True), f"stage{i}.block{b}.second", 1, False)
        nodes.append(helper.make_node("Add", [x, y], [f"sum{i}.{b}"]))
        nodes.append(helper.make_node("Relu", [f"sum{i}.{b}"], [f"out{i}.{b}"]))
        x = f"out{i}.{b}"
nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
linear = [constant("features.w", weights["student.features.weight"]), constant("features.b", weights["student.features.bias"])]
nodes.append(helper.make_node("Gemm", ["flat", *linear], ["features"], transB=1))
shape = [1, spec["channels"], spec["height"], spec["width"]]
graph = helper.make_graph(
    nodes,
    "student",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, config["features"]])],
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
