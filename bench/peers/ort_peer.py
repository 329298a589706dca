"""ONNX Runtime's side of the encoder measurement: the student of a bundle, batch 1, one thread. Prints one JSON object.

Usage: ort_peer.py BUNDLE_DIR ROUNDS
"""
import json
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from student_onnx import Graph

bundle, rounds = sys.argv[1], int(sys.argv[2])
manifest = json.load(open(f"{bundle}/bundle.json"))
spec = manifest["input"]
student = Graph(load_file(f"{bundle}/encoder.safetensors"))
features = student.student(manifest)
shape = [1, spec["channels"], spec["height"], spec["width"]]
graph = helper.make_graph(
    student.nodes,
    "student",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features])],
    student.constants,
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
