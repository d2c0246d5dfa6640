"""A tiny Llama with random weights and a tokenizer of its own, as a folder that any loader of safetensors reads."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "walk forward slowly, then crouch and stop",
    'run at 2.5 m/s and lean back {"robot": "walker", "terms": []}',
    "The capital of France is Paris. One, two, three, four.",
]


def save_tokenizer(folder: Path, size: int = 400) -> int:
    """Save a byte-level BPE tokenizer with a chat template; return the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (END, START, STOP)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    card = {"bos_token": START, "eos_token": STOP, "pad_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(card))
    return tokenizer.get_vocab_size()


def save_llama(
    folder: Path, seed: int = 0, hidden: int = 64, layers: int = 2, positions: int = 512, scale: float = 0.3
) -> Path:
    """Save a Llama of head size 16; `scale` is the spread of its weights: the larger, the surer it is of its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    size = save_tokenizer(folder)
    heads, kv_heads, inner = hidden // 16, hidden // 32, 2 * hidden
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": size,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    embedding = drawn(size, hidden)
    embedding[:3] = 0.0  # the special tokens are never likely
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": torch.ones(hidden)}
    narrow = kv_heads * (hidden // heads)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": torch.ones(hidden),
            f"{prefix}.post_attention_layernorm.weight": torch.ones(hidden),
            f"{prefix}.self_attn.q_proj.weight": drawn(hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": drawn(narrow, hidden),
            f"{prefix}.self_attn.v_proj.weight": drawn(narrow, hidden),
            f"{prefix}.self_attn.o_proj.weight": drawn(hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": drawn(inner, hidden),
            f"{prefix}.mlp.up_proj.weight": drawn(inner, hidden),
            f"{prefix}.mlp.down_proj.weight": drawn(hidden, inner),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
