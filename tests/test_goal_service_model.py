"""The language model and its tokenizer: the numbers of transformers, the same bits in any batch, no special token from plain text."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

from deploy.goal_service.linear import GROUP, Int4, Packed, linear, pack
from deploy.goal_service.llama import Llama, LlamaConfig, Rope, Span
from deploy.goal_service.weights import load_weights, packaged_model
from tests.goal_models import SHAPE, save_folder

TINY = LlamaConfig(300, 64, 2, 4, 2, 16, 96, 512, qk_norm=True)


@pytest.fixture(scope="module")
def smol():
    return load_weights(packaged_model())


@pytest.fixture(scope="module")
def smol_int4(smol):
    return Llama(smol.config, smol.tensors, "int4", packed=smol.packed)


def random_tensors(cfg, seed=0):
    draw = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(s, generator=draw) for n, s in cfg.shapes().items()}
    return {n: t * t.shape[-1] ** -0.5 if t.ndim == 2 else 1 + 0.2 * t for n, t in made.items()}


def span(row, start, stop):
    at = torch.arange(start, stop)
    return Span(row, at, at)


def forward(model, ids):
    ids = torch.as_tensor(ids)
    return model.forward(ids, [span(0, 0, len(ids))], model.cache(1, len(ids)))


def one_by_one(model, ids):
    cache = model.cache(1, len(ids))
    return torch.cat([model.forward(ids[i : i + 1], [span(0, i, i + 1)], cache) for i in range(len(ids))])


def transformers_smol():
    """Return transformers' model with the packaged weights, read apart from our code (its own reader needs accelerate)."""
    cfg = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(cfg)
    names = {
        "token_embd": "embed_tokens",
        "output_norm": "norm",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    names |= {f"attn_{p}": f"self_attn.{p}_proj" for p in "qkv"} | {"attn_output": "self_attn.o_proj"}
    names |= {f"ffn_{p}": f"mlp.{p}_proj" for p in ("gate", "up", "down")}
    made = {}
    for tensor in gguf.GGUFReader(packaged_model()).tensors:
        *block, part, _ = tensor.name.split(".")
        value = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        if part in ("attn_q", "attn_k"):
            value = value.view(-1, 32, 2, 576).transpose(1, 2).reshape(value.shape)
        made[".".join(["model", *(["layers", block[1]] if block else []), names[part], "weight"])] = value
    model.load_state_dict(made | {"lm_head.weight": made["model.embed_tokens.weight"]}, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(cfg)
    return model.eval()


def test_the_packaged_model_has_the_logits_of_transformers(smol):
    theirs = transformers_smol()
    ours = Llama(smol.config, smol.tensors, "fp32")
    for text in ("The capital of France is", "walk forward at 1.5 m/s, then crouch"):
        ids = smol.vocabulary.encode(text)
        with torch.no_grad():
            want = theirs(torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(forward(ours, ids), want.logits[0], atol=1e-3, rtol=0)
        at = [span(0, 0, len(ids))]
        inside = ours.features(torch.tensor(ids), at, ours.cache(1, len(ids)), 20)
        torch.testing.assert_close(inside, want.hidden_states[20][0], atol=1e-3, rtol=1e-4)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "cfg",
    [
        transformers.LlamaConfig(**SHAPE),
        transformers.LlamaConfig(
            **SHAPE, tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
        ),
        transformers.LlamaConfig(
            **SHAPE, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 64, "rope_theta": 5e5}
        ),
        transformers.Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False),
    ],
    ids=["llama", "linear rope, tied", "llama3 rope", "qwen3"],
)
def test_a_folder_has_the_logits_of_transformers(tmp_path, cfg):
    theirs = save_folder(tmp_path, cfg, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read = load_weights(tmp_path)
    ids = torch.randint(0, 256, (1, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(ids).logits[0]
    torch.testing.assert_close(forward(Llama(read.config, read.tensors, "fp32"), ids[0]), want, atol=1e-4, rtol=0)
    assert read.vocabulary.eos == {257}
    assert read.vocabulary.bos == 256


def write_gguf(path, cfg, tensors, kind=gguf.GGMLQuantizationType.Q4_0):
    """Write a llama as llama.cpp's converter does: q and k with the halves of each head interleaved."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(cfg.width)
    writer.add_block_count(cfg.layers)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_feed_forward_length(cfg.inner)
    writer.add_context_length(cfg.context)
    writer.add_layer_norm_rms_eps(cfg.eps)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*letters, "<|im_end|>", "ab"] + [f"unused {i}" for i in range(cfg.vocab - 258)])
    writer.add_token_types([1] * 256 + [3, 1] + [5] * (cfg.vocab - 258))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    names = {"attention_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    names |= {"mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for name, tensor in tensors.items():
        part = name.rsplit(".", 1)[-1]
        values = tensor.numpy()
        if part in "qk":
            heads = cfg.heads if part == "q" else cfg.kv_heads
            values = values.reshape(heads, 2, -1, cfg.width).swapaxes(1, 2).reshape(values.shape)
        to = (
            f"blk.{name.split('.')[1]}.{names[part]}.weight"
            if "." in name
            else {"embedding": "token_embd.weight"}.get(name, "output_norm.weight")
        )
        dense = values.ndim == 1 or name == "embedding"
        writer.add_tensor(to, values if dense else gguf.quantize(values, kind), raw_dtype=None if dense else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1], ids=["Q4_0", "Q4_1"])
def test_a_gguf_file_is_read_with_heads_in_order_and_its_four_bits_kept(tmp_path, kind):
    cfg = LlamaConfig(300, 64, 2, 4, 2, 16, 96, 512)
    tensors = random_tensors(cfg)
    write_gguf(tmp_path / "tiny.gguf", cfg, tensors, kind)
    read = load_weights(tmp_path / "tiny.gguf")
    assert read.config == replace(cfg, eps=read.config.eps)
    assert read.config.eps == pytest.approx(cfg.eps)
    for name, tensor in tensors.items():
        blocks = tensor.ndim == 2 and name != "embedding"
        want = torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.numpy(), kind), kind)) if blocks else tensor
        assert torch.equal(read.tensors[name], want)
        if blocks:
            torch.testing.assert_close(read.packed[name].dense(), want)
    assert set(read.packed) == {name for name, tensor in tensors.items() if tensor.ndim == 2} - {"embedding"}


def test_an_int4_matrix_multiplies_as_the_file_says():
    dense = random_tensors(TINY)["layers.0.down"]
    as_read = Packed(torch.randint(0, 16, (40, 96), dtype=torch.uint8), torch.rand(40, 3), torch.randn(40, 3))
    for packed, allowed in ((as_read, 0.01), (pack(dense), 0.01)):
        x = torch.randn(5, 96).bfloat16()
        want = x.float() @ packed.dense().T
        assert (Int4(packed)(x).float() - want).norm() < allowed * want.norm()
    assert (pack(dense).dense() - dense).norm() < 0.1 * dense.norm()


def test_a_matrix_that_a_kernel_would_crash_on_is_refused():
    for kind in ("int8", "int4"):
        with pytest.raises(ValueError, match=f"multiple of {GROUP} on the CPU, got 33"):
            linear(torch.zeros(17, 33), kind)
    with pytest.raises(ValueError, match="must be one of int4, int8, bf16, fp32, got 'int3'"):
        linear(torch.zeros(32, 32), "int3")


def batched(model, ids, others):
    """Return the logits of `ids`, in pieces of 1 to 5 tokens beside two other sequences."""
    cache = model.cache(8, 2 * len(ids))
    model.forward(others[0][:37], [span(1, 0, 37)], cache)
    model.forward(others[1][:60], [span(5, 0, 60)], cache)
    made, i = [], 0
    while i < len(ids):
        n, first = min(1 + i % 5, len(ids) - i), 37 + i % 4
        tokens = torch.cat([others[0][first : first + 3], ids[i : i + n], others[1][60:61]])
        spans = [span(1, first, first + 3), span(3, i, i + n), span(5, 60, 61)]
        made.append(model.forward(tokens, spans, cache)[3 : 3 + n])
        i += n
    return torch.cat(made)


def chunks(model, ids, size):
    cache = model.cache(4, len(ids))
    pieces = [(i, min(i + size, len(ids))) for i in range(0, len(ids), size)]
    return torch.cat([model.forward(ids[a:b], [span(2, a, b)], cache) for a, b in pieces])


def branches(model, ids, tails):
    """Return the logits of each tail after `ids`, all in one call, each seeing the prefix and itself."""
    prefix, n = len(ids), len(tails[0])
    cache = model.cache(1, prefix + len(tails) * n)
    model.forward(ids, [span(0, 0, prefix)], cache)
    visible = torch.block_diag(*[torch.ones(n, n).tril()] * len(tails)).bool()
    visible = torch.cat([torch.ones(len(visible), prefix, dtype=torch.bool), visible], 1)
    slots = torch.arange(prefix, prefix + len(visible))
    positions = torch.arange(prefix, prefix + n).repeat(len(tails))
    return model.forward(torch.cat(tails), [Span(0, slots, positions, visible)], cache).view(len(tails), n, -1)


def hold_the_same_bits(model, length):
    draw = torch.Generator().manual_seed(0)
    ids, *others = torch.randint(0, model.config.vocab, (3, length), generator=draw)
    alone = one_by_one(model, ids)
    assert torch.equal(forward(model, ids), alone)
    for size in (2, 8, 33):
        assert torch.equal(chunks(model, ids, size), alone)
    assert torch.equal(batched(model, ids, others), alone)
    tails = [ids[50:53], others[0][:3], others[1][:3]]
    told = branches(model, ids[:50], tails)
    assert torch.equal(told[0], alone[50:53])
    assert torch.equal(told[2], one_by_one(model, torch.cat([ids[:50], tails[2]]))[50:])


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_a_token_gets_the_same_bits_alone_in_chunks_in_a_batch_and_in_a_tree(kind):
    hold_the_same_bits(Llama(TINY, random_tensors(TINY), kind), 150)


def test_a_token_gets_the_same_bits_from_the_packaged_model_in_any_batch(smol_int4):
    hold_the_same_bits(smol_int4, 80)


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_dense_kinds_agree_to_rounding(kind):
    model = Llama(TINY, random_tensors(TINY), kind)
    ids = torch.arange(150)
    error = (forward(model, ids) - one_by_one(model, ids)).abs().max()
    assert error < (0.1 if kind == "bf16" else 1e-4)


@pytest.mark.parametrize("rows", [1, 2, 7, 40, 640])
def test_integer_kernels_give_a_row_the_same_bits_whatever_the_others(rows):
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 576, generator=draw), torch.randn(rows, 576, generator=draw).bfloat16()
    for kind in ("int4", "int8"):
        made = linear(weight, kind)
        assert torch.equal(made(x), torch.cat([made(row[None]) for row in x]))


def test_a_copied_row_goes_on_as_the_first_would(smol_int4):
    ids = torch.arange(100, 140)
    cache = smol_int4.cache(3, 64)
    smol_int4.forward(ids, [span(0, 0, 40)], cache)
    cache.copy(0, 2, 40)
    nexts = [smol_int4.forward(torch.tensor([7]), [span(row, 40, 41)], cache) for row in (0, 2)]
    assert torch.equal(*nexts)


def test_only_the_wanted_logits_come_back():
    model = Llama(TINY, random_tensors(TINY), "int8")
    ids, wanted = torch.arange(10), torch.tensor([9, 3])
    some = model.forward(ids, [span(0, 0, 10)], model.cache(1, 10), wanted)
    assert torch.equal(some, forward(model, ids)[wanted])


def test_what_is_not_a_model_is_refused_in_one_line(tmp_path):
    def refused(match):
        with pytest.raises(ValueError, match=match) as error:
            load_weights(path)
        assert "\n" not in str(error.value)

    path = tmp_path / "absent.gguf"
    refused("no model at")
    path.write_bytes(b"not a model at all")
    refused("cannot be read as GGUF")
    write_gguf(
        path,
        TINY,
        {n: t for n, t in random_tensors(LlamaConfig(300, 64, 2, 4, 2, 16, 96, 512)).items() if "down" not in n},
    )
    refused("has no tensor for layers.0.down")
    path = tmp_path / "folder"
    path.mkdir()
    refused("no config.json")
    save_folder(path, transformers.LlamaConfig(**SHAPE))
    card = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(card | {"hidden_size": 128, "head_dim": 16}))
    refused(r"embedding must have the shape \(258, 128\), got \(258, 64\)")
    (path / "config.json").write_text(json.dumps(card | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}))
    refused("rope scaling 'yarn' is not known; default, linear and llama3 are")
    (path / "config.json").write_text(json.dumps(card | {"architectures": ["GemmaForCausalLM"]}))
    refused("architecture 'GemmaForCausalLM' is not known; choose a model of LlamaForCausalLM or Qwen3ForCausalLM")


def test_stretched_positions_keep_the_fast_and_slow_the_slow():
    plain, stretched = Rope(1e4).frequencies(64), Rope(1e4, "llama3", 8.0, original=256).frequencies(64)
    np.testing.assert_allclose(stretched[:2], plain[:2])
    np.testing.assert_allclose(stretched[-2:], plain[-2:] / 8)


def test_the_packaged_model_is_a_file_of_the_package():
    assert packaged_model().suffix == ".gguf"
    assert Path(packaged_model()).stat().st_size == 98_362_432
