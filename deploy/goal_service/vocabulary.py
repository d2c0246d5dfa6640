"""Text to tokens and back, and a conversation to a prompt, with the tokenizer and the template that came with the model.

Text of a user never becomes a special token: `<|im_end|>` in a message is spelt out, like any other text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_CONTROL, _USER, _UNKNOWN = 3, 4, 2  # token types of GGUF
_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)
SPLITS: Mapping[str, tuple[str, ...] | None] = {
    "smollm": None,  # digits one by one, then as GPT-2
    "gpt-2": None,
    "default": _DEFAULT,
    "qwen2": (_LETTERS % "",),
    "llama-bpe": (_LETTERS % "{1,3}",),
}
"""How text is cut before its pieces are merged, by the name that GGUF has for it."""
_PRIVATE = range(0xE000, 0xF8FF)


@dataclass(frozen=True)
class Chat:
    """A template of a conversation (jinja), and the texts that it may ask for."""

    template: str
    texts: Mapping[str, str]


class Vocabulary:
    """The tokens of a model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos: Sequence[int],
        bos: int | None,
        begins: bool = False,
        chat: Chat | None = None,
        size: int = 0,
    ) -> None:
        """Take a tokenizer; `begins`: a prompt starts with `bos`. `size`: of the model's output, where that is larger."""
        added = tokenizer.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if token.special}
        self.size = max(size, tokenizer.get_vocab_size())
        self.eos, self.bos, self.begins = frozenset(eos), bos, begins
        self._full = tokenizer
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._bytes = _bytes(tokenizer, {i: token.content for i, token in added.items()}, set(self.special.values()))
        longest_first = sorted(self.special, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._chat = chat
        self._template = _environment().from_string(chat.template) if chat else None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the tokens of a text; `special`: what looks like a special token is one."""
        return (self._full if special else self._plain).encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a text that a model goes on from, without special tokens but the one that it expects first."""
        start = [self.bos] if self.begins and self.bos is not None else []
        return start + self.encode(text, special=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; special tokens have none, and U+FFFD stands for what is no character (yet)."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """Return what a token adds to a text; special and unused tokens add nothing."""
        return self._bytes.get(token, b"")

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the prompt for a conversation, up to where the model answers. Raises ValueError, in one line, for what is none."""
        if self._template is None or self._chat is None:
            raise ValueError("this model has no chat template: send it a plain prompt")
        mark = _unused(self._chat.template + json.dumps(messages, ensure_ascii=False))
        safe = _mapped(messages, lambda text: self._broken(text, mark))
        try:
            text = self._template.render(messages=safe, add_generation_prompt=True, **self._chat.texts)
        except (jinja2.TemplateError, TypeError, AttributeError) as error:
            raise ValueError(f"messages do not fit the model's template: {str(error).splitlines()[0]}") from None
        ids: list[int] = []
        at = 0
        for found in self._specials.finditer(text):
            ids += self.encode(text[at : found.start()].replace(mark, ""), special=False)
            ids.append(self.special[found.group()])
            at = found.end()
        return ids + self.encode(text[at:].replace(mark, ""), special=False)

    def _broken(self, text: str, mark: str) -> str:
        """Return a text with a mark inside whatever reads as a special token, or begins one at its end."""
        text = self._specials.sub(lambda found: found.group()[0] + mark + found.group()[1:], text)
        tails = [n for name in self.special for n in range(1, len(name)) if text.endswith(name[:n])]
        at = len(text) - max(tails, default=0) + 1
        return text[:at] + mark + text[at:] if tails else text


def read_folder(folder: Path, size: int) -> Vocabulary:
    """Return the vocabulary of a folder with tokenizer.json. Raises ValueError, in one line, where it is missing or wrong."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"no tokenizer.json in {folder}: save it there with `AutoTokenizer.save_pretrained`")
    if not {"model", "added_tokens", "decoder"} <= set(read_json(path)):
        raise ValueError(f"{path} is not a tokenizer: it must have model, decoder and added_tokens")
    tokenizer = Tokenizer.from_file(str(path))
    card = read_json(folder / "tokenizer_config.json")
    names = {key: _content(card.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    ends = {tokenizer.token_to_id(names["eos_token"])} if names["eos_token"] else set()
    for file in ("generation_config.json", "config.json"):
        ids = read_json(folder / file).get("eos_token_id")
        ends |= set(ids if isinstance(ids, list) else [ids])
    template = folder / "chat_template.jinja"
    source = template.read_text() if template.exists() else card.get("chat_template")
    if isinstance(source, list):  # named ones
        source = next((t["template"] for t in source if t["name"] == "default"), None)
    bos = tokenizer.token_to_id(names["bos_token"]) if names["bos_token"] else None
    begins = bos is not None and tokenizer.encode("a").ids[:1] == [bos]
    chat = Chat(source, {k: v for k, v in names.items() if v}) if source else None
    return Vocabulary(tokenizer, [i for i in ends if i is not None], bos, begins, chat, size)


def read_metadata(fields: Mapping[str, Any], size: int) -> Vocabulary:
    """Return the vocabulary that a GGUF file's metadata describe. Raises ValueError, in one line, for a kind that is not known."""
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise ValueError(
            f"tokenizer {kind!r} is not known (gpt2 is): use the folder with tokenizer.json that it was made from"
        )
    if split not in SPLITS:
        raise ValueError(f"pre-tokenizer {split!r} is not known: choose a model with one of {', '.join(SPLITS)}")
    missing = [key for key in ("tokens", "token_type", "merges") if f"tokenizer.ggml.{key}" not in fields]
    if missing:
        raise ValueError(f"the file does not say its tokenizer.ggml.{missing[0]}")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    known = {token: i for i, token in enumerate(tokens)}
    strange = next((m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= known.keys()), None)
    if strange:
        raise ValueError(f"the file's merges must be of its tokens, got {' '.join(strange)!r}")
    whole = split == "llama-bpe"
    tokenizer = Tokenizer(models.BPE(known, merges, ignore_merges=whole))
    tokenizer.pre_tokenizer = _splitter(split)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    added = [(t, of) for t, of in zip(tokens, types, strict=True) if of in (_CONTROL, _USER, _UNKNOWN)]
    tokenizer.add_tokens([AddedToken(t, special=of != _USER, normalized=False) for t, of in added])
    number = {key: fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "eot", "padding")}
    names = {"bos_token": number["bos"], "eos_token": number["eos"], "pad_token": number["padding"]}
    texts = {key: tokens[i] for key, i in names.items() if i is not None}
    ends = [i for i in (number["eos"], number["eot"]) if i is not None]
    source = fields.get("tokenizer.chat_template")
    begins = bool(fields.get("tokenizer.ggml.add_bos_token", whole))
    return Vocabulary(tokenizer, ends, number["bos"], begins, Chat(source, texts) if source else None, size)


def _splitter(name: str) -> pre_tokenizers.PreTokenizer:
    patterns = SPLITS[name]
    if patterns is None:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if name == "smollm" else []
        return pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _bytes(tokenizer: Tokenizer, added: Mapping[int, str], special: set[int]) -> dict[int, bytes]:
    """Return what each token that is not special stands for."""
    decoder = tokenizer.decoder
    state = decoder.__getstate__().decode() if decoder is not None else ""
    if "ByteLevel" in state:
        byte = _alphabet()
        known = {
            i: bytes(byte[c] for c in token)
            for token, i in tokenizer.get_vocab(False).items()
            if set(token) <= set(byte)
        }
    elif "ByteFallback" in state:
        known = {i: _piece(token) for token, i in tokenizer.get_vocab(False).items()}
    else:
        raise ValueError("a tokenizer must work on bytes (ByteLevel or ByteFallback), so that any text can be written")
    known |= {i: text.encode() for i, text in added.items()}
    return {i: value for i, value in known.items() if i not in special}


def _alphabet() -> dict[str, int]:
    """Return which byte each character of GPT-2's alphabet stands for."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _piece(token: str) -> bytes:
    """Return the bytes of a SentencePiece token."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what templates are run in: no attribute, module or call that could reach outside."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    made.globals["raise_exception"] = _refuse
    return made


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _unused(text: str) -> str:
    """Return a private character that a text does not have."""
    present = set(text)
    return next(chr(code) for code in _PRIVATE if chr(code) not in present)


def _mapped(value: Any, change: Any) -> Any:
    """Return plain values with every text changed but the names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list | tuple) else value


def _content(token: Any) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}
