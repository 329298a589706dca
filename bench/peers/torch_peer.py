"""PyTorch's side of the training measurements. Prints one JSON object; called by `semlink-bench`.

Usage: torch_peer.py THREADS ROUNDS CONFIG_JSON
CONFIG_JSON: {"kind": "step", "network": {...}, "batch": 64, "size": 32, "channels": 3, "device": "cpu"}
          or {"kind": "depthwise"} or {"kind": "batch_norm"}
Both memory layouts are tried and the faster one is reported.
"""
import json
import sys
import time

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = conv_bn(width, width, 1, True)
        self.second = conv_bn(width, width, 1, False)

    def forward(self, x):
        return torch.relu(x + self.second(self.first(x)))


def conv_bn(inputs, outputs, stride, act):
    parts = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU(inplace=True)] if act else []))


class Network(nn.Module):
    """The network of semlink-codec's ResidualConfig with a linear classifier of ten classes."""

    def __init__(self, config, channels):
        super().__init__()
        layers, width = [conv_bn(channels, config["stem"], 1, True)], config["stem"]
        for stage in config["stages"]:
            layers.append(conv_bn(width, stage["channels"], stage["stride"], True))
            width = stage["channels"]
            layers += [Block(width) for _ in range(stage["blocks"])]
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(width, config["features"])
        self.classifier = nn.Linear(config["features"], 10)

    def forward(self, x):
        return self.classifier(self.features(self.body(x).mean((2, 3))))


def median_ms(run, rounds, steps=1, settle=lambda: None):
    """Median time of a step over rounds of `steps` steps; a GPU is waited for after each round."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        settle()
        start = time.perf_counter()
        for _ in range(steps):
            run()
        settle()
        times.append((time.perf_counter() - start) * 1e3 / steps)
    return sorted(times)[len(times) // 2]


def measure(config, rounds, layout):
    torch.manual_seed(0)
    if config["kind"] == "step":
        device = config.get("device", "cpu")
        net = Network(config["network"], config["channels"]).to(device, memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
        x = torch.randn(config["batch"], config["channels"], config["size"], config["size"]).to(device, memory_format=layout)
        y = torch.randint(0, 10, (config["batch"],), device=device)

        def run():
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

        gpu = {} if device == "cpu" else {"steps": 10, "settle": torch.cuda.synchronize}
        return median_ms(run, rounds, **gpu), sum(p.numel() for p in net.parameters())
    layer = nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False) if config["kind"] == "depthwise" else nn.BatchNorm2d(32)
    layer = layer.to(memory_format=layout)
    x = torch.randn(64, 32, 28, 28).to(memory_format=layout).requires_grad_()
    grad = torch.ones(64, 32, 28, 28).to(memory_format=layout)

    def run():
        x.grad = None
        layer.zero_grad(set_to_none=True)
        layer(x).backward(grad)

    return median_ms(run, rounds), sum(p.numel() for p in layer.parameters())


threads, rounds, config = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(threads)
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
results = [measure(config, rounds, layout) for layout in (torch.contiguous_format, torch.channels_last)]
best = min(results)
print(json.dumps({"ms": best[0], "params": best[1], "peer": f"PyTorch {torch.__version__}"}))
