"""Tiny Llama models as GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
Q8 = gguf.GGMLQuantizationType.Q8_0


def write_gguf(
    path: Path, model: Any, tokenizer: Any, *, architecture: str = "llama", quantised: bool = False, **more: Any
) -> Path:
    """Write a Llama model; with ``quantised`` its matrices as Q8_0, whose values the given model then has too."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for key, value in more.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _add_weight(writer, name, weight, config, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_weight(writer: Any, name: str, weight: torch.Tensor, config: Any, quantised: bool) -> None:
    stem = name.removesuffix(".weight")
    if stem in WHOLE:
        name = WHOLE[stem]
    else:
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        name = f"blk.{layer}.{NAMES[part]}"
    values = weight.numpy()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.rpartition(".")[2])
    if quantised and values.ndim == 2:
        blocks = gguf.quants.quantize(values, Q8)
        weight.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, Q8)))
        writer.add_tensor(f"{name}.weight", _permuted(blocks, heads), raw_dtype=Q8)
    else:
        writer.add_tensor(f"{name}.weight", _permuted(values, heads))


def _permuted(values: np.ndarray[Any, Any], heads: int | None) -> np.ndarray[Any, Any]:
    """Rows of query and key weights in the order of llama.cpp's rotary embedding: pairs side by side."""
    if heads is None:
        return values
    rows, columns = values.shape
    return np.ascontiguousarray(values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)).reshape(
        rows, columns
    )


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in specials else gguf.TokenType.NORMAL for token in vocabulary]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
