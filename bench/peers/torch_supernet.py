"""PyTorch's side of the supernet measurement: the mixed network of semlink-trainer's search. Prints one JSON object.

Usage: torch_supernet.py THREADS ROUNDS CONFIG_JSON
CONFIG_JSON: {"layout": {...}, "operations": [...], "partial": 2, "batch": 128, "device": "cpu"}
A step is a first-order step of the architecture (Adam; gradients of alpha and beta alone), then one of the weights (SGD), as in PC-DARTS.
Both memory layouts are tried and the faster one is reported.
"""
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def norm(width):
    return nn.BatchNorm2d(width, affine=False)


def conv_bn(inputs, outputs, kernel, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def operation(name, width, stride):
    if name == "none":
        return None
    if name == "skip":
        if stride == 1:
            return nn.Identity()
        pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.Conv2d(width, width, 1, bias=False), norm(width))
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(width))
    if name == "avg_pool_3x3":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(width))
    kernel = int(name[-1])
    if name.startswith("conv"):
        return nn.Sequential(nn.Conv2d(width, width, kernel, stride, kernel // 2, bias=False), norm(width))
    dilation = 2 if name.startswith("dil") else 1
    depthwise = nn.Conv2d(width, width, kernel, stride, dilation * (kernel // 2), dilation, groups=width, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(width, width, 1, bias=False), norm(width))


class Cell(nn.Module):
    def __init__(self, inputs, width, reduction, halve_first, nodes, operations, partial):
        super().__init__()
        self.part, self.partial, self.nodes, self.reduction, self.halve_first = width // partial, partial, nodes, reduction, halve_first
        self.inputs = nn.ModuleList(conv_bn(i, width, 1, 1) for i in inputs)
        self.edges = nn.ModuleList()
        for node in range(nodes):
            for source in range(2 + node):
                stride = 2 if reduction and source < 2 else 1
                made = [operation(name, self.part, stride) for name in operations]
                self.edges.append(nn.ModuleList(m for m in made if m is not None))
        self.columns = [c for c, name in enumerate(operations) if name != "none"]

    def forward(self, before, previous, gates, kept):
        if self.halve_first:
            before = F.avg_pool2d(before, 3, 2, 1, count_include_pad=False)
        states = [self.inputs[0](before), self.inputs[1](previous)]
        active, passing = [], []

        def add(state, source):
            active.append(state[:, : self.part])
            rest = state[:, self.part :]
            passing.append(F.max_pool2d(rest, 3, 2, 1) if self.reduction and source < 2 else rest)

        for source, state in enumerate(states):
            add(state, source)
        outputs, edge = [], 0
        for node in range(self.nodes):
            total, rest = 0, 0
            for source in range(2 + node):
                for column, layer in zip(self.columns, self.edges[edge]):
                    total = total + gates[edge, column] * layer(active[source])
                rest = rest + kept[edge] * passing[source]
                edge += 1
            # The parts are rotated: other channels come to the operations at the next node.
            state = torch.relu(torch.cat([rest, total], 1))
            add(state, 2 + node)
            outputs.append(state)
        return torch.cat(outputs, 1)


class Supernet(nn.Module):
    def __init__(self, layout, operations, partial):
        super().__init__()
        self.nodes = layout["nodes"]
        stem, width = [], 1
        for i, channels in enumerate(layout["stem"]):
            stem.append(conv_bn(width, channels, 3, 1 if i == 0 else 2))
            width = channels
        self.stem = nn.Sequential(*stem)
        before, previous, node, halve = width, width, layout["width"], False
        self.cells, self.kinds = nn.ModuleList(), layout["cells"]
        for kind in layout["cells"]:
            reduction = kind == "reduction"
            node *= 2 if reduction else 1
            self.cells.append(Cell([before, previous], node, reduction, halve, self.nodes, operations, partial))
            before, previous, halve = previous, node * self.nodes, reduction
        self.features = nn.Linear(previous, layout["features"])
        edges = sum(2 + n for n in range(self.nodes))
        self.alphas = nn.ParameterDict({kind: 1e-3 * torch.randn(edges, len(operations)) for kind in set(self.kinds)})
        self.betas = nn.ParameterDict({kind: 1e-3 * torch.randn(edges) for kind in set(self.kinds)})

    def gates(self):
        found = {}
        for kind in self.alphas:
            parts = torch.split(self.betas[kind], [2 + n for n in range(self.nodes)])
            kept = torch.cat([2 * torch.softmax(part, 0) for part in parts])
            found[kind] = (torch.softmax(self.alphas[kind], 1) * kept[:, None], kept)
        return found

    def forward(self, x, gates):
        before = previous = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells):
            before, previous = previous, cell(before, previous, *gates[kind])
        return self.features(previous.mean((2, 3)))


def settle(device):
    if device != "cpu":
        torch.cuda.synchronize()


def measure(config, rounds, layout):
    torch.manual_seed(0)
    device = config.get("device", "cpu")
    net = Supernet(config["layout"], config["operations"], config["partial"]).to(device, memory_format=layout)
    architecture = [*net.alphas.values(), *net.betas.values()]
    weights = [p for p in net.parameters() if all(p is not a for a in architecture)]
    sgd = torch.optim.SGD(weights, 0.01, momentum=0.9, nesterov=True, weight_decay=3e-4)
    adam = torch.optim.Adam(architecture, 1e-3)
    x = torch.randn(config["batch"], 1, 28, 28).to(device, memory_format=layout)
    y = torch.ones(config["batch"], config["layout"]["features"], device=device)

    def step():
        # Gradients of the architecture alone, which spares autograd those of the weights.
        grads = torch.autograd.grad(F.mse_loss(net(x, net.gates()), y), architecture)
        for parameter, grad in zip(architecture, grads):
            parameter.grad = grad
        adam.step()
        sgd.zero_grad(set_to_none=True)
        gates = {kind: (g.detach(), k.detach()) for kind, (g, k) in net.gates().items()}
        F.mse_loss(net(x, gates), y).backward()
        sgd.step()

    for _ in range(2):
        step()
    times = []
    for _ in range(rounds):
        settle(device)
        start = time.perf_counter()
        step()
        settle(device)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[len(times) // 2], sum(p.numel() for p in weights)


if __name__ == "__main__":
    threads, rounds, config = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    found = [measure(config, rounds, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    ms, params = min(found)
    print(json.dumps({"ms": ms, "params": params, "peer": f"PyTorch {torch.__version__}"}))
