"""Golden values from PyTorch for the operators, optimisers and schedules of this crate.

    python generate.py            # writes ops.json, optim.json and schedule.json beside this file

Needs NumPy and PyTorch (CPU). Inputs are drawn from fixed seeds and rounded to f32; everything is computed in float64 and
stored with seven digits. PyTorch's layouts are permuted to this crate's: NCHW to NHWC, OIHW to HWIO. The tests only ever
read the files.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
HERE = Path(__file__).parent


def draw(seed, *shape, low=-2.0, high=2.0):
    """A leaf tensor of f32-representable values on a grid that JSON writes in a few characters."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return torch.tensor(np.round(values * 64) / 64, requires_grad=True)


def dump(t):
    t = t.detach()
    return {"shape": list(t.shape), "data": [float(f"{v:.7g}") for v in t.flatten().tolist()]}


def nhwc(t):
    return t.permute(0, 2, 3, 1)


def hwio(t):
    return t.permute(2, 3, 1, 0)


def same(t):
    return t


def case(op, y, args, params=None, y_layout=same, layouts=None, extra=None):
    """Value and gradients of sum(r * y) for a fixed random r."""
    r = draw(1000 + y.numel(), *y.shape)
    for a in args:
        a.grad = None
    (y * r).sum().backward()
    layouts = layouts or [same] * len(args)
    result = {
        "op": op,
        "params": params or {},
        "args": [dump(f(a)) for f, a in zip(layouts, args)],
        "y": dump(y_layout(y)),
        "r": dump(y_layout(r)),
        "grads": [dump(f(a.grad)) for f, a in zip(layouts, args)],
    }
    result.update({k: dump(v) for k, v in (extra or {}).items()})
    return result


def convolutions():
    cases = [
        # n, h, w, cin, cout, kernel, stride, padding, dilation, groups
        (2, 5, 6, 3, 4, 3, 1, 1, 1, 1),
        (1, 5, 4, 6, 18, 1, 1, 0, 1, 1),
        (1, 7, 6, 4, 5, 3, 2, 1, 1, 1),
        (1, 5, 5, 2, 3, 5, 1, 3, 1, 1),
        (1, 7, 7, 3, 2, 3, 1, 2, 2, 1),
        (1, 5, 5, 6, 4, 3, 1, 1, 1, 2),
        (1, 5, 6, 18, 18, 3, 1, 1, 1, 18),
        (2, 7, 6, 5, 5, 3, 2, 2, 2, 5),
        (1, 6, 6, 3, 6, 5, 2, 2, 1, 3),
    ]
    for i, (n, h, w, cin, cout, k, stride, padding, dilation, groups) in enumerate(cases):
        x, weight = draw(10 * i, n, cin, h, w), draw(10 * i + 1, cout, cin // groups, k, k)
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        yield case("conv2d", y, [x, weight], params, nhwc, [nhwc, hwio])


def activations():
    functions = {"identity": lambda z: z + 0, "relu": F.relu, "relu6": F.relu6, "gelu": F.gelu}
    for i, (name, f) in enumerate(functions.items()):
        a, b = draw(200 + i, 2, 3, 7, low=-8, high=8), draw(210 + i, 2, 3, 7)
        yield case("activate", f(a), [a], {"act": name})
        yield case("add_activate", f(a + b), [a, b], {"act": name})


def norms():
    x, g, b = draw(300, 2, 5, 3, 4), draw(301, 5, low=0.5, high=1.5), draw(302, 5)
    mean, var = draw(303, 5).detach(), draw(304, 5, low=0.5, high=2).detach()
    running = mean.clone(), var.clone()
    y = F.relu(F.batch_norm(x, *running, g, b, training=True, momentum=0.1, eps=1e-5))
    extra = {"mean": mean, "var": var, "new_mean": running[0], "new_var": running[1]}
    yield case("batch_norm_train", y, [x, g, b], {"act": "relu"}, nhwc, [nhwc, same, same], extra)
    y = F.batch_norm(x, None, None, None, None, training=True, eps=1e-5)
    yield case("batch_norm_train", y, [x], {"act": "identity"}, nhwc, [nhwc])
    y = F.relu6(F.batch_norm(x, mean, var, g, b, training=False, eps=1e-5))
    yield case("batch_norm_eval", y, [x, g, b], {"act": "relu6"}, nhwc, [nhwc, same, same], {"mean": mean, "var": var})
    x, g, b = draw(310, 2, 3, 9), draw(311, 9), draw(312, 9)
    yield case("layer_norm", F.layer_norm(x, (9,), g, b, 1e-5), [x, g, b])
    yield case("layer_norm", F.layer_norm(x, (9,), None, None, 1e-5), [x])


def pools():
    ties = torch.tensor(np.random.default_rng(400).integers(0, 2, (1, 2, 5, 5)).astype(float), requires_grad=True)
    for i, (k, stride, padding) in enumerate([(2, 2, 0), (3, 1, 1), (3, 2, 1)]):
        for x in (draw(401 + i, 2, 3, 5, 6), ties):
            params = {"kernel": k, "stride": stride, "padding": padding}
            yield case("max_pool2d", F.max_pool2d(x, k, stride, padding), [x], params, nhwc, [nhwc])
            y = F.avg_pool2d(x, k, stride, padding, count_include_pad=False)
            yield case("avg_pool2d", y, [x], params, nhwc, [nhwc])
    x = draw(410, 2, 3, 4, 5)
    yield case("global_avg_pool", F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], [x], {}, same, [nhwc])


def dense():
    x, w, b = draw(500, 2, 3, 7), draw(501, 5, 7), draw(502, 5)
    yield case("linear", F.linear(x, w, b), [x, w, b])
    yield case("linear", F.linear(x, w), [x, w])
    x = draw(503, 2, 3, 7)
    yield case("softmax", F.softmax(x, -1), [x])
    for heads in (1, 2):
        n, t, d = 2, 5, 8
        qkv = draw(504 + heads, n, t, 3 * d)
        q, k, v = (part.reshape(n, t, heads, d // heads).transpose(1, 2) for part in qkv.split(d, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        yield case("attention", y, [qkv], {"heads": heads})


def losses():
    x, t, w = draw(600, 4, 6), F.softmax(draw(601, 4, 6), -1).detach(), draw(602, 4, low=0, high=2).detach()
    t = torch.round(t * 1e6) / 1e6  # as the file holds it
    yield case("cross_entropy", F.cross_entropy(x, t), [x], extra={"targets": t})
    y = (F.cross_entropy(x, t, reduction="none") * w).mean()
    yield case("cross_entropy", y, [x], extra={"targets": t, "weights": w})
    a, b = draw(603, 4, 3), draw(604, 4, 3)
    yield case("mse", F.mse_loss(a, b), [a, b])
    yield case("mse", ((a - b) ** 2 * w[:, None]).mean(), [a, b], extra={"weights": w})


def optimisers():
    kinds = [
        ("sgd", {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
        ("sgd", {"momentum": 0.9, "nesterov": False, "weight_decay": 0.01}),
        ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("adamw", {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}),
        ("adamw", {"betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.3}),
    ]
    steps = 6
    for kind, config in kinds:
        params = [draw(700, 3, 4), draw(701, 5)]
        start = [dump(p) for p in params]
        optimiser = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind](params, lr=0.1, **config)
        trace = []
        for step in range(steps):
            lr = 0.1 / (step + 1)
            for group in optimiser.param_groups:
                group["lr"] = lr
            grads = [draw(710 + 2 * step + i, *p.shape).detach() for i, p in enumerate(params)]
            for p, g in zip(params, grads):
                p.grad = g
            optimiser.step()
            trace.append({"lr": lr, "grads": [dump(g) for g in grads], "params": [dump(p) for p in params]})
        yield {"kind": kind, "config": config, "start": start, "steps": trace}


def schedules():
    def rates(make, total):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
        schedule = make(optimiser)
        found = []
        for _ in range(total):
            found.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return found

    total, warmup = 40, 12
    one_cycle = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=total + 1, pct_start=warmup / (total + 1))
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=total, eta_min=0.01)
    yield {"kind": "one_cycle", "peak": 0.2, "warmup": warmup, "total": total + 1, "rates": rates(one_cycle, total)}
    yield {"kind": "cosine", "peak": 0.2, "floor": 0.01, "total": total, "rates": rates(cosine, total)}


def write(name, cases):
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (HERE / name).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    groups = (convolutions, activations, norms, pools, dense, losses)
    write("ops.json", [c for group in groups for c in group()])
    write("optim.json", list(optimisers()))
    write("schedule.json", list(schedules()))
