"""The student of a bundle as nodes of an ONNX graph, with the bundle's weights; batch-norm folded, as any exporter would."""
import numpy as np
from onnx import helper, numpy_helper


class Graph:
    """Nodes and constants of a graph that is being built."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []

    def constant(self, name, value, kind=np.float32):
        self.constants.append(numpy_helper.from_array(np.array(value, dtype=kind, order="C"), name))
        return name

    def node(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def dense(self, x, layer, name):
        """x [n, in] through a linear layer of the bundle."""
        inputs = [x, self.constant(name + ".w", self.weights[layer + ".weight"]), self.constant(name + ".b", self.weights[layer + ".bias"])]
        return self.node("Gemm", inputs, name, transB=1)

    def conv_bn(self, x, name, stride, act):
        get = lambda part: self.weights[f"student.{name}.{part}"]
        scale = get("bn.weight") / np.sqrt(get("bn.running_var") + 1e-5)
        weight = get("conv.weight") * scale  # HWIO, the last axis is the output channel
        kernel = weight.shape[0]
        bias = self.constant(name + ".b", get("bn.bias") - get("bn.running_mean") * scale)
        inputs = [x, self.constant(name + ".w", weight.transpose(3, 2, 0, 1)), bias]
        y = self.node("Conv", inputs, name, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4, strides=[stride, stride])
        return self.node("Relu", [y], name + ".relu") if act else y

    def pool(self, x, kind, name, stride):
        """3x3; the mean is that of the pixels inside the image."""
        attributes = {"count_include_pad": 0} if kind == "AveragePool" else {}
        return self.node(kind, [x], name, kernel_shape=[3, 3], pads=[1] * 4, strides=[stride, stride], **attributes)

    def batch_norm(self, x, name):
        parts = ["weight", "bias", "running_mean", "running_var"]
        inputs = [self.constant(f"{name}.{part}", self.weights[f"student.{name}.{part}"]) for part in parts]
        return self.node("BatchNormalization", [x, *inputs], name, epsilon=1e-5)

    def operation(self, x, op, name, stride):
        if op == "skip":
            return x if stride == 1 else self.conv_bn(self.pool(x, "AveragePool", name + ".pool", 2), name, 1, False)
        if op in ("max_pool_3x3", "avg_pool_3x3"):
            y = self.pool(x, "MaxPool" if op.startswith("max") else "AveragePool", name + ".pool", stride)
            return self.batch_norm(y, name + ".bn")
        if op in ("conv_1x1", "conv_3x3"):
            return self.conv_bn(x, name, stride, False)
        weight = self.weights[f"student.{name}.depthwise.weight"]
        kernel, dilation = weight.shape[0], 2 if op.startswith("dil") else 1
        inputs = [x, self.constant(name + ".dw", weight.transpose(3, 2, 0, 1))]
        y = self.node(
            "Conv", inputs, name + ".depthwise", group=weight.shape[3], kernel_shape=[kernel, kernel], strides=[stride, stride],
            dilations=[dilation, dilation], pads=[dilation * (kernel // 2)] * 4,
        )
        return self.conv_bn(y, name, 1, False)

    def residual(self, config):
        x = self.conv_bn("image", "stem", 1, True)
        for i, stage in enumerate(config["stages"]):
            x = self.conv_bn(x, f"stage{i}.down", stage["stride"], True)
            for b in range(stage["blocks"]):
                first = self.conv_bn(x, f"stage{i}.block{b}.first", 1, True)
                y = self.conv_bn(first, f"stage{i}.block{b}.second", 1, False)
                x = self.node("Relu", [self.node("Add", [x, y], f"sum{i}.{b}")], f"out{i}.{b}")
        return x

    def cells(self, layout, genotype):
        x = "image"
        for i in range(len(layout["stem"])):
            x = self.conv_bn(x, f"stem.{i}", 1 if i == 0 else 2, True)
        before, previous, halve = x, x, False
        for c, kind in enumerate(layout["cells"]):
            first = self.pool(before, "AveragePool", f"cell{c}.halved", 2) if halve else before
            states = [self.conv_bn(first, f"cell{c}.input0", 1, True), self.conv_bn(previous, f"cell{c}.input1", 1, True)]
            for n, edges in enumerate(genotype[kind]):
                terms = []
                for edge in edges:
                    stride = 2 if kind == "reduction" and edge["from"] < 2 else 1
                    name = f"cell{c}.node{n}.{edge['op']}_from_{edge['from']}"
                    terms.append(self.operation(states[edge["from"]], edge["op"], name, stride))
                total = terms[0]
                for t, term in enumerate(terms[1:]):
                    total = self.node("Add", [total, term], f"cell{c}.node{n}.sum{t}")
                states.append(self.node("Relu", [total], f"cell{c}.node{n}"))
            before, previous, halve = previous, self.node("Concat", states[2:], f"cell{c}", axis=1), kind == "reduction"
        return previous

    def student(self, manifest):
        """From the graph's input "image" [1, channels, height, width] to the node "features" [1, F]; returns F."""
        ((family, config),) = manifest["student"].items()
        x = self.residual(config) if family == "residual" else self.cells(config["layout"], config["genotype"])
        flat = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pooled")], "flat")
        self.dense(flat, "student.features", "features")
        return config["features"] if family == "residual" else config["layout"]["features"]
