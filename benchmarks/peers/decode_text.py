"""Other engines on the goal service's weights: transformers (plain, prompt lookup, assisted) and llama.cpp (plain, n-grams).

It runs in an environment of its own (`make bench-peers`), so it imports nothing of ours; benchmarks/goal_service.py asks it, one
engine at a time: `FOLDER ENGINE`, where the folder holds problem.json. Prints one JSON line: seconds and tokens of each turn, and
the tokens of each text (-1 where it does not tell). The weights are those of the package, in the file's own four bits for llama.cpp.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Decode = Callable[[Sequence[int]], list[int]]
UNKNOWN = -1
"""A token that an engine does not tell."""


def transformers_decoder(asked: dict, kind: str) -> Decode:
    """Return their greedy decoding in bfloat16, as our target's."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(asked["threads"])
    file = Path(asked["model"])
    loading = {"gguf_file": file.name, "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(file.parent, **loading).eval()
    more = {"plain": {}, "lookup": {"prompt_lookup_num_tokens": asked["lookahead"]}}.get(kind)
    if more is None:
        draft = AutoModelForCausalLM.from_pretrained(asked["draft"], dtype=torch.bfloat16).eval()
        draft.generation_config.num_assistant_tokens = asked["lookahead"]
        more = {"assistant_model": draft}

    def decode(prompt: Sequence[int]) -> list[int]:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            found = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=asked["tokens"], **more
            )
        return found[0, len(prompt) :].tolist()

    return decode


def llama_cpp_decoder(asked: dict, kind: str) -> Decode:
    """Return llama.cpp's greedy decoding."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx = asked["model"], 1, 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.verbosity = -1
    if kind == "ngram":
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    server = xllamacpp.Server(params)

    def decode(prompt: Sequence[int]) -> list[int]:
        said = {"prompt": list(prompt), "n_predict": asked["tokens"], "temperature": 0.0, "cache_prompt": False}
        return [UNKNOWN] * server.handle_completions(said)["usage"]["completion_tokens"]

    return decode


ENGINES = {
    f"{name} {kind}": (make, kind)
    for name, make, kinds in (
        ("transformers", transformers_decoder, ("plain", "lookup", "assisted")),
        ("llama.cpp", llama_cpp_decoder, ("plain", "ngram")),
    )
    for kind in kinds
}


def main(folder: Path, engine: str) -> None:
    """Decode the prompts in turns and print what it took."""
    asked = json.loads((folder / "problem.json").read_text())
    make, kind = ENGINES[engine]
    decode = make(asked, kind)
    decode(asked["prompts"][0])  # what is slow only the first time
    turns = []
    for _ in range(asked["turns"]):
        began_s = time.perf_counter()
        texts = [decode(prompt) for prompt in asked["prompts"]]
        turns.append({"seconds": time.perf_counter() - began_s, "tokens": sum(map(len, texts)), "texts": texts})
    print(json.dumps(turns))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
