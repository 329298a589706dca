"""PyTorch's and transformers' side of `semlink-trainer teacher time`: features of a CLIP ViT-B/32 of random weights. Prints one JSON object.

Usage: clip_features.py [--device cpu|cuda:N] [--precision f32|tf32|bf16|f16] [--batch N] [--side N] [--batches N] [--rounds N] [--threads N]

The same work on the same device: `images_per_second` from 8-bit pixels in memory (batch x 3 x side x side) to features of f16 in memory, resized on the
device (bicubic, antialiased), `tower_images_per_second` from prepared images on the device. Attention by PyTorch's own choice of kernel.
"""
import argparse
import json
import time

import torch
import transformers
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16", "f16"])
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--side", type=int, default=32)
parser.add_argument("--batches", type=int, default=4)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int)
args = parser.parse_args()

if args.threads:
    torch.set_num_threads(args.threads)
allowed = args.precision == "tf32"
torch.backends.cuda.matmul.allow_tf32 = allowed
torch.backends.cudnn.allow_tf32 = allowed
dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(args.precision, torch.float32)
torch.manual_seed(1)
config = CLIPVisionConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224, patch_size=32,
    hidden_act="quick_gelu", projection_dim=512, attn_implementation="sdpa",
)
model = CLIPVisionModelWithProjection(config).eval().to(args.device, dtype)
shape = (args.batch, 3, args.side, args.side)
pixels = (torch.arange(torch.Size(shape).numel()) * 31 % 251).to(torch.uint8).reshape(shape)
mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=args.device).view(1, 3, 1, 1)
std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=args.device).view(1, 3, 1, 1)


def prepare():
    images = pixels.to(args.device).float()
    images = torch.nn.functional.interpolate(images, size=(224, 224), mode="bicubic", antialias=True).round().clamp(0, 255)
    return ((images / 255 - mean) / std).to(dtype)


def cache():
    return model(pixel_values=prepare()).image_embeds.half().cpu()


def rate(run):
    def wait():
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    with torch.inference_mode():
        run()
        run()
        wait()
        rates = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            for _ in range(args.batches):
                run()
            wait()
            rates.append(args.batches * args.batch / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


with torch.inference_mode():
    prepared = prepare()
print(json.dumps({
    "what": "CLIP ViT-B/32",
    "device": args.device,
    "precision": args.precision,
    "batch": args.batch,
    "side": args.side,
    "images_per_second": rate(cache),
    "tower_images_per_second": rate(lambda: model(pixel_values=prepared).image_embeds),
    "params": sum(p.numel() for p in model.parameters()),
    "peer": f"PyTorch {torch.__version__}, transformers {transformers.__version__}",
}))
