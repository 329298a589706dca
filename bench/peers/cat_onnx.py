"""Both halves of a bundle as ONNX models, with the bundle's weights: student and CAT encoder, CAT decoder and classifier (docs/CAT.md)."""
import json
import math

import numpy as np
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from student_onnx import Graph

OPSET = [helper.make_opsetid("", 20)]


class Cat(Graph):
    """What the two halves share. One frame at a time: tokens are [1, T, width]."""

    def linear(self, x, layer):
        """[1, T, in] through a linear layer."""
        weight = self.constant(layer + ".weight", self.weights[layer + ".weight"].T)
        product = self.node("MatMul", [x, weight], layer + ".product")
        return self.node("Add", [product, self.constant(layer + ".bias", self.weights[layer + ".bias"])], layer)

    def condition(self, half):
        """The channel's description [1, D] to a vector [1, 32]."""
        x = self.node("Gelu", [self.dense("description", f"{half}.condition.first", "condition.first")], "condition.first.gelu")
        return self.node("Gelu", [self.dense(x, f"{half}.condition.second", "condition.second")], "condition")

    def share(self, layer):
        """1 + a linear map of the condition, [1, 1, width] for all tokens."""
        one = self.node("Add", [self.dense("condition", layer, layer), "one"], layer + ".one")
        return self.node("Unsqueeze", [one, "axis_1"], layer + ".all")

    def modulate(self, x, layer):
        """x (1 + scale) + shift."""
        both = self.dense("condition", layer, layer)
        scale, shift = layer + ".scale", layer + ".shift"
        self.nodes.append(helper.make_node("Split", [both], [scale, shift], axis=1, num_outputs=2))
        one = self.node("Unsqueeze", [self.node("Add", [scale, "one"], scale + ".one"), "axis_1"], scale + ".all")
        scaled = self.node("Mul", [x, one], layer + ".scaled")
        return self.node("Add", [scaled, self.node("Unsqueeze", [shift, "axis_1"], shift + ".all")], layer + ".done")

    def norm(self, x, width, name):
        ones = self.constant(name + ".ones", np.ones(width))
        return self.node("LayerNormalization", [x, ones], name, axis=-1, epsilon=1e-5)

    def attention(self, x, layer, tokens, width, heads):
        qkv = self.linear(x, layer + ".qkv")
        split = self.constant(layer + ".split", [tokens, 3, heads, width // heads], np.int64)
        parts = self.node("Transpose", [self.node("Reshape", [qkv, split], layer + ".heads")], layer + ".by_part", perm=[1, 2, 0, 3])
        q, k, v = (self.node("Gather", [parts, self.constant(f"{layer}.{i}", i, np.int64)], f"{layer}.part{i}", axis=0) for i in range(3))
        scores = self.node("MatMul", [q, self.node("Transpose", [k], layer + ".kt", perm=[0, 2, 1])], layer + ".scores")
        scale = self.constant(layer + ".scale", 1 / math.sqrt(width // heads))
        chosen = self.node("Softmax", [self.node("Mul", [scores, scale], layer + ".scaled")], layer + ".chosen", axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [chosen, v], layer + ".mixed")], layer + ".by_token", perm=[1, 0, 2])
        joined = self.node("Reshape", [mixed, self.constant(layer + ".join", [1, tokens, width], np.int64)], layer + ".joined")
        return self.linear(joined, layer + ".out")

    def blocks(self, x, half, tokens, config):
        width, heads = config["width"], config["heads"]
        for i in range(config["blocks"]):
            at = f"{half}.blocks.{i}"
            y = self.modulate(self.norm(x, width, at + ".norm0"), at + ".attention_scale_shift")
            y = self.attention(y, at + ".attention", tokens, width, heads)
            x = self.node("Add", [x, self.node("Mul", [y, self.share(at + ".attention_gate")], at + ".gated0")], at + ".sum0")
            y = self.modulate(self.norm(x, width, at + ".norm1"), at + ".mlp_scale_shift")
            y = self.linear(self.node("Gelu", [self.linear(y, at + ".up")], at + ".gelu"), at + ".down")
            x = self.node("Add", [x, self.node("Mul", [y, self.share(at + ".mlp_gate")], at + ".gated1")], at + ".sum1")
        return x

    def model(self, inputs, outputs):
        info = lambda pairs: [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in pairs]
        graph = helper.make_graph(self.nodes, "half", info(inputs), info(outputs), self.constants)
        return helper.make_model(graph, opset_imports=OPSET, ir_version=9).SerializeToString()


def manifest(bundle):
    with open(f"{bundle}/bundle.json") as file:
        return json.load(file)


def description(cat, uses, snr_db, at_receiver):
    """What an end is told of an AWGN channel, as the codec's numbers."""
    scaled = min(max((snr_db - 5) / 15, -2), 3)
    frame = [1, scaled] if at_receiver else [0, 0]
    one_hot = [float(rate == uses) for rate in cat["rates"]]
    return np.array([[1, scaled, *frame, 1, 0, 0, math.log2(uses) / 4 - 1.25, *one_hot]], dtype=np.float32)


def start(bundle, half):
    read = manifest(bundle)
    graph = Cat(load_file(f"{bundle}/{half}.safetensors"))
    graph.constant("one", 1.0)
    graph.constant("axis_1", [1], np.int64)
    return read, read["cat"], graph


def encoder(bundle, uses):
    """image [1, C, H, W] and description [1, D] to symbols [uses, 2] of mean power 1."""
    read, cat, g = start(bundle, "encoder")
    tokens, config, half = cat["tokens"], cat["encoder"], "cat_encoder"
    width, spec = config["width"], read["input"]
    shape = g.constant("tokens.shape", [1, tokens, width], np.int64)
    g.student(read)
    g.condition(half)
    x = g.node("Reshape", [g.dense("features", half + ".tokens", "tokens"), shape], "tokens.split")
    if cat.get("codewords", 0):
        book = half + ".codebook"
        sharpness = g.node("Exp", [g.dense("condition", book + ".sharpness", "sharpness")], "sharpness.exp")
        scores = g.node("Mul", [g.dense("features", book + ".scores", "scores"), sharpness], "scores.sharp")
        choice = g.node("Softmax", [scores], "choice", axis=-1)
        words = g.constant("codewords", g.weights[book + ".codewords.weight"].T)
        word = g.node("Reshape", [g.node("MatMul", [choice, words], "word"), shape], "word.split")
        own = g.node("Mul", [x, g.share(book + ".features_share")], "own.shared")
        x = g.node("Add", [own, g.node("Mul", [word, g.share(book + ".codeword_share")], "word.shared")], "tokens.coded")
    x = g.blocks(x, half, tokens, config)
    x = g.linear(g.modulate(g.norm(x, width, "norm"), half + ".scale_shift"), half + ".symbols")
    # Symbol s is the (s / T)-th of token s mod T.
    most = cat["rates"][-1]
    dealt = g.node("Reshape", [x, g.constant("deal", [tokens, most // tokens, 2], np.int64)], "dealt")
    ordered = g.node("Transpose", [dealt], "ordered", perm=[1, 0, 2])
    flat = g.node("Reshape", [ordered, g.constant("flat.shape", [most, 2], np.int64)], "frames")
    first = g.node("Slice", [flat, g.constant("from", [0], np.int64), g.constant("to", [uses], np.int64)], "first")
    norm = g.node("ReduceL2", [first], "length", keepdims=0)
    scale = g.node("Div", [g.constant("root", math.sqrt(uses)), norm], "scale")
    g.node("Mul", [first, scale], "symbols")
    numbers = 8 + len(cat["rates"])
    image = [1, spec["channels"], spec["height"], spec["width"]]
    return g.model([("image", image), ("description", [1, numbers])], [("symbols", [uses, 2])])


def decoder(bundle, uses):
    """Estimates and reliability [uses, 3] and description [1, D] to probabilities [1, classes]."""
    read, cat, g = start(bundle, "decoder")
    tokens, config, half = cat["tokens"], cat["decoder"], "cat_decoder"
    most = cat["rates"][-1]
    slots = uses // tokens
    g.condition(half)
    dealt = g.node("Reshape", ["estimates", g.constant("deal", [slots, tokens, 3], np.int64)], "dealt")
    ordered = g.node("Transpose", [dealt], "ordered", perm=[1, 0, 2])
    padded = g.node("Pad", [ordered, g.constant("pads", [0, 0, 0, 0, most // tokens - slots, 0], np.int64)], "padded")
    x = g.node("Reshape", [padded, g.constant("tokens.shape", [1, tokens, 3 * most // tokens], np.int64)], "tokens")
    x = g.modulate(g.linear(x, half + ".embed"), half + ".scale_shift")
    x = g.node("Flatten", [g.blocks(x, half, tokens, config)], "flat")
    x = g.node("Gelu", [g.dense(x, half + ".hidden", "hidden")], "hidden.gelu")
    logits = g.dense(g.dense(x, half + ".features", "features"), "classifier.linear", "logits")
    g.node("Softmax", [logits], "probabilities", axis=-1)
    classes = len(read["labels"])
    return g.model([("estimates", [uses, 3]), ("description", [1, 8 + len(cat["rates"])])], [("probabilities", [1, classes])])
