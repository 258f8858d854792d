"""Tiny text models in the files of pretrained ones."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, Gemma2Config, Gemma2ForCausalLM
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.gemma.tokenization_gemma import GemmaTokenizer

CAPTIONS = ["a red apple", "a green apple", "a sleeping cat", "the red sail of a ship", "grüne Äpfel"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
CLIP_WORDS = ["<|startoftext|>", "<|endoftext|>", *ALPHABET, *(c + "</w>" for c in ALPHABET), "ca", "cat</w>"]
CLIP_TOWER: dict[str, Any] = {
    "vocab_size": len(CLIP_WORDS), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1,
    "projection_dim": 8,
}  # fmt: skip


def clip_folder(folder: Path, *, whole: bool = False) -> Path:
    """A CLIP of 16 wide with letters for tokens, as transformers writes it today."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(CLIP_WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    torch.manual_seed(0)
    if whole:
        vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
        config = CLIPConfig(text_config=CLIP_TOWER, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    else:
        CLIPTextModel(CLIPTextConfig(**CLIP_TOWER)).save_pretrained(folder)
    return folder


def old_clip_folder(folder: Path, *, whole: bool = False) -> Path:
    """The same as it was written in 2022 and 2023, when CLIP-L/14 and TinyCLIP were published.

    Names of tensors begin with ``text_model.``, positions are stored as a tensor, the configuration repeats what every
    model of transformers had and holds the closing token's number as 2, and ``tokenizer.json`` is the only vocabulary.
    """
    clip_folder(folder, whole=whole)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for path in folder.glob("*.txt"):
        path.unlink()
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())

    weights = load_file(folder / "model.safetensors")
    if not whole and not any(name.startswith("text_model.") for name in weights):
        weights = {f"text_model.{name}": value for name, value in weights.items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    old: dict[str, Any] = {
        "_name_or_path": "", "architectures": None, "add_cross_attention": False, "attention_dropout": 0.0,
        "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "max_length": 20, "min_length": 0, "num_beams": 1,
        "pruned_heads": {}, "return_dict": True, "tie_word_embeddings": True, "top_k": 50, "torch_dtype": None,
        "typical_p": 1.0, "use_bfloat16": False, "transformers_version": "4.35.0", "model_type": "clip_text_model",
    }  # fmt: skip
    tower = {**CLIP_TOWER, **old}
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "text_config": tower, "architectures": ["CLIPModel"]} if whole else tower
    path.write_text(json.dumps({**config, "torch_dtype": "float32"}))
    return folder


def gemma_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A Gemma-2 of 32 wide, two layers, and a vocabulary of 400 entries."""
    folder.mkdir()
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special + [f"<0x{i:02X}>" for i in range(256)], show_progress=False
    )
    words.train_from_iterator([caption.replace(" ", "▁") for caption in CAPTIONS * 4], trainer)
    model = json.loads(words.to_str())["model"]
    vocabulary, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    GemmaTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    config = Gemma2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=16,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Gemma2ForCausalLM(config).to(dtype)
    with torch.no_grad():  # embeddings of deviation 0.02 make tokens that hardly differ
        network.model.embed_tokens.weight.mul_(20)
    network.save_pretrained(folder)
    return folder
