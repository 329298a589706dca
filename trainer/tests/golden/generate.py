"""Golden values from transformers (PyTorch) and Pillow for the pretrained teachers.

    python generate.py            # writes the folders and JSON files beside this file

Needs NumPy, Pillow, PyTorch (CPU), tokenizers and transformers. Networks are tiny and of random weights; what they should give is computed by
transformers in f32. Checkpoints are as `save_pretrained` writes them. The tests only ever read the files.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

transformers.logging.set_verbosity_error()
HERE = Path(__file__).parent
WORDS = ["a", "photo", "of", "cat", "dog", "bird"]


def randomise(model, seed):
    """Weights large enough that every part of a network shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if name == "logit_scale":
            parameter.data.fill_(2.5)
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.25 * noise
    return model.eval()


def picture(seed, height, width):
    """A colour image of 8 bits with edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([(x * 37 + y * 11) % 256, (x * y * 3) % 256, np.where((x // 3 + y // 2) % 2, 230, 20)], -1)
    return np.clip(base + rng.integers(-25, 25, (height, width, 3)), 0, 255).astype(np.uint8)


def flat(t, digits=7):
    return [float(f"{v:.{digits}g}") for v in torch.as_tensor(t).detach().flatten().tolist()]


def save(model, name, processor, extra=()):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for part in extra:
        part.save_pretrained(folder)
    for file in folder.iterdir():
        if file.name not in ("config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"):
            file.unlink()


def prepared(processor, image):
    return processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]


def case(model, processor, images, run):
    found = []
    for image in images:
        with torch.no_grad():
            outputs = run(model, prepared(processor, image))
        height, width, _ = image.shape
        found.append({"height": height, "width": width, "pixels": image.flatten().tolist(), **{k: flat(v[0]) for k, v in outputs.items()}})
    return found


def tokenizer():
    """As CLIP's: lower case, words that end in </w>, merged from characters; a start and an end token around a text."""
    symbols = sorted({c for word in WORDS for c in word} | set(",'sxyz"))
    vocabulary = {s: i for i, s in enumerate(symbols + [s + "</w>" for s in symbols])}
    merges = []
    for word in WORDS:
        parts = list(word[:-1]) + [word[-1] + "</w>"]
        while len(parts) > 1:
            merge, parts = (parts[0], parts[1]), [parts[0] + parts[1]] + parts[2:]
            if merge not in merges:
                merges.append(merge)
            vocabulary.setdefault(parts[0], len(vocabulary))
    start, end = len(vocabulary), len(vocabulary) + 1
    vocabulary |= {"<|startoftext|>": start, "<|endoftext|>": end}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    fast.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end), ("<|startoftext|>", start), trim_offsets=False, add_prefix_space=False,
    )
    fast.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=12,
    ), start, end


def clip():
    words, start, end = tokenizer()
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPConfig(
        text_config=dict(small, vocab_size=end + 1, max_position_embeddings=12, bos_token_id=start, eos_token_id=end, pad_token_id=end),
        vision_config=dict(small, image_size=24, patch_size=8),
        projection_dim=12,
    )
    model = randomise(CLIPModel(config), 1)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    save(model, "clip", processor, [words])
    images = case(model, processor, [picture(1, 24, 24), picture(2, 17, 29), picture(3, 41, 12)], lambda m, x: {
        "prepared": x.permute(0, 2, 3, 1), "features": m.visual_projection(m.vision_model(pixel_values=x).pooler_output),
        "image_embeds": m(pixel_values=x, input_ids=torch.tensor([[start, end]])).image_embeds,
    })
    texts = []
    for text in ["a photo of a cat", "A  Photo of a\tDOG", "bird's zoo, a cat", "", "a photo of a cat and a dog and a bird of a photo of a cat"]:
        ids = words(text, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model(pixel_values=torch.zeros(1, 3, 24, 24), input_ids=ids)
        texts.append({"text": text, "ids": ids[0].tolist(), "text_embeds": flat(out.text_embeds)})
    return {"images": images, "texts": texts, "logit_scale": float(model.logit_scale.detach().exp())}


def clip_vision():
    """A tower alone, without projection."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8, hidden_act="gelu",
    )
    model = randomise(CLIPVisionModel(config), 2)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}, resample=2)
    save(model, "clip-vision", processor)
    return {"images": case(model, processor, [picture(4, 9, 13)], lambda m, x: {
        "prepared": x.permute(0, 2, 3, 1), "features": m(pixel_values=x).pooler_output,
    })}


def vit():
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    images = [picture(5, 16, 16), picture(6, 11, 23)]
    model = randomise(ViTForImageClassification(ViTConfig(num_labels=5, **small)), 3)
    save(model, "vit-classifier", processor)
    classifier = case(model, processor, images, lambda m, x: {
        "prepared": x.permute(0, 2, 3, 1), "features": m.vit(x).last_hidden_state[:, 0], "logits": m(x).logits,
    })
    model = randomise(ViTModel(ViTConfig(qkv_bias=False, **small)), 4)
    save(model, "vit", processor)
    plain = case(model, processor, images[:1], lambda m, x: {"prepared": x.permute(0, 2, 3, 1), "features": m(x).last_hidden_state[:, 0]})
    return {"vit-classifier": {"images": classifier}, "vit": {"images": plain}}


def dinov2():
    """The crop has another grid of patches than the positions."""
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=4, mlp_ratio=2)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}, resample=3, do_resize=True, do_center_crop=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )
    images = [picture(7, 16, 16), picture(8, 33, 26)]
    found = {}
    for name, model in [
        ("dinov2", Dinov2Model(Dinov2Config(**small))),
        ("dinov2-gated", Dinov2Model(Dinov2Config(use_swiglu_ffn=True, **{**small, "mlp_ratio": 1}))),
        ("dinov2-registers", Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=3, **small))),
    ]:
        model = randomise(model, 5 + len(found))
        save(model, name, processor)
        run = lambda m, x: {"prepared": x.permute(0, 2, 3, 1), "features": m(pixel_values=x).pooler_output}
        found[name] = {"images": case(model, processor, images, run)}
    return found


def preprocessing():
    """Odd sizes and settings: processors alone. Where a side shrinks more than the other, Pillow 13 may resize it first, which moves some values by one
    step; these sizes are ones of which Pillow of all versions resizes the width first."""
    found = []
    for processor, image in [
        (CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 12, "width": 27}, resample=3), picture(10, 31, 20)),
        (CLIPImageProcessorPil(size={"shortest_edge": 7}, crop_size={"height": 12, "width": 12}, resample=2), picture(11, 40, 25)),
        (CLIPImageProcessorPil(do_resize=False, crop_size={"height": 9, "width": 14}), picture(12, 13, 10)),
        (CLIPImageProcessorPil(size={"shortest_edge": 30}, do_center_crop=False, resample=1, do_normalize=False), picture(13, 12, 19)),
        (ViTImageProcessorPil(size={"height": 13, "width": 21}, do_rescale=False, do_normalize=False, resample=2), picture(14, 8, 50)),
        (ViTImageProcessorPil(size={"height": 32, "width": 9}, resample=3), picture(15, 5, 47)),
    ]:
        kind = "vit" if isinstance(processor, ViTImageProcessorPil) else "clip"
        out = prepared(processor, image).permute(0, 2, 3, 1)
        found.append({
            "kind": kind, "config": json.loads(processor.to_json_string()), "height": image.shape[0], "width": image.shape[1],
            "pixels": image.flatten().tolist(), "shape": list(out.shape[1:]), "prepared": flat(out[0]),
        })
    return found


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


torch.manual_seed(0)
write("teachers.json", {"clip": clip(), "clip-vision": clip_vision(), **vit(), **dinov2()})
write("preprocessing.json", preprocessing())
