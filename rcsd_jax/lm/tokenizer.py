"""Text to token ids and back, and chats through the model's own template.

Text from data never becomes a control token. The template is rendered with the data in disguise, so every added token
in the result was written by the template; those become their ids, and what lies between them is encoded by a copy of
the tokenizer that has no added tokens. On text without control tokens this gives the ids of transformers.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from transformers import PreTrainedTokenizerFast

from rcsd_jax.lm import hub
from rcsd_jax.types import Message

ROLES = ("system", "user", "assistant")
# The sandbox of the template engine bounds neither time nor memory.
MAX_TEMPLATE_CHARS = 100_000
MAX_CHAT_CHARS = 2_000_000
# Llama 3 templates print today's date unless they are given one. A prompt must not change overnight.
DATE = "26 Jul 2024"
PRIVATE_USE = range(0xF0000, 0xFFFFE)


class ChatTokenizer:
    """The tokenizer of a model, with its chat template.

    Attributes:
      eos_ids: every id that ends a completion; the first one is what the template writes after an assistant's turn.
      pad_id: fills up rows. It may equal an EOS id: masks never come from it.
      bos_id: the id that starts a text, or None. Templates write it themselves.
      vocab_limit: one more than the largest id; rows of the model's vocabulary from here on have no token.
      chat_template: the source of the template.
      has_thinking_switch: whether the template knows ``enable_thinking``.
    """

    def __init__(self, folder: Path):
        self._stock = _stock_tokenizer(folder)
        self._backend: tokenizers.Tokenizer = self._stock.backend_tokenizer
        self._plain = _without_added_tokens(self._backend)
        self._control_ids = {str(token): id for id, token in self._backend.get_added_tokens_decoder().items()}
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._control_start = re.compile(f"(?={self._control.pattern})")
        self._files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if _is_tokenizer_file(path)}

        self.chat_template: str = self._stock.get_chat_template()
        self.has_thinking_switch = "enable_thinking" in self.chat_template
        self.vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_limit = max(self.vocabulary.values()) + 1
        self._generation_config = _read_json(folder / "generation_config.json")
        self.eos_ids = self._find_eos_ids(_read_json(folder / "config.json"))
        self.bos_id: int | None = self._stock.bos_token_id
        self.pad_id: int = self.eos_ids[0] if self._stock.pad_token_id is None else self._stock.pad_token_id
        self._check_like_stock()

    @classmethod
    def load(cls, source: str | Path) -> ChatTokenizer:
        """Reads a Hugging Face folder or hub id. No code from the folder is run.

        Raises:
          ValueError: what is missing or cannot be used, and the cure.
        """
        return cls(hub.fetch(source, hub.TOKENIZER_PATTERNS + hub.CONFIG_PATTERNS))

    @classmethod
    def from_tokenizer(
        cls, tokenizer: tokenizers.Tokenizer, chat_template: str, *, eos: str, pad: str, bos: str | None = None
    ) -> ChatTokenizer:
        """Wraps a tokenizer made in Python; ``eos``, ``pad`` and ``bos`` are added tokens of it."""
        unknown = [token for token in (eos, pad, bos) if token is not None and tokenizer.token_to_id(token) is None]
        if unknown:
            raise ValueError(f"the tokenizer has no tokens {unknown}: add them with add_special_tokens")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": pad,
            "bos_token": bos,
            "clean_up_tokenization_spaces": False,
        }
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tokenizer.save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
            return cls(folder)

    def opens_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thought, its template having written ``<think>`` itself."""
        marks = [self._control_ids.get(name) for name in ("<think>", "</think>")]
        last = next((int(id) for id in reversed(prompt_ids) if int(id) in marks), None)
        return last is not None and last == marks[0]

    @property
    def end_of_thinking(self) -> tuple[int, ...]:
        """The ids of ``</think>``: one control token, or as plain text where the tokenizer has none."""
        control = self._control_ids.get("</think>")
        return tuple(self.encode("</think>")) if control is None else (control,)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no BOS, and what looks like a control token is spelled out in ordinary tokens.

        Raises:
          ValueError: the text is no valid Unicode.
        """
        return self._plain.encode(_valid_text(text, "text"), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens (EOS, padding, turn markers) leave no trace, ``</think>`` stays."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def encode_chat(
        self, messages: Sequence[Message], *, thinking: bool | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        """Ids of a conversation in the model's chat template.

        Args:
          messages: their contents are data: whatever stands in them, they hold no control token.
          thinking: sets ``enable_thinking``; None leaves it to the template. A template without this switch cannot
            be asked to think.
          add_generation_prompt: ends with the opening of the assistant's turn.

        Raises:
          ValueError: an unknown role, no valid text, too long, thinking without a switch, or the template refuses.
        """
        contents, reveal = self._disguise([_content(number, message) for number, message in enumerate(messages)])
        turns = [{"role": message.role, "content": text} for message, text in zip(messages, contents, strict=True)]
        text, ids, end = self._render(turns, thinking, add_generation_prompt), [], 0
        for control in self._control.finditer(text):
            ids += self.encode(text[end : control.start()].translate(reveal))
            ids.append(self._control_ids[control.group()])
            end = control.end()
        return ids + self.encode(text[end:].translate(reveal))

    def save(self, folder: str | Path) -> None:
        """Writes the files it was loaded from, unchanged, and a generation config with all EOS ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        generation = {**self._generation_config, "eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
        if self.bos_id is not None:
            generation["bos_token_id"] = self.bos_id
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")

    def _disguise(self, contents: Sequence[str]) -> tuple[list[str], dict[int, str]]:
        """Contents in which no control token can be seen, and the table for ``str.translate`` that undoes it.

        A character stands for itself under another code point wherever a control token starts, and at both ends of
        the text, where one could be completed by what the template writes there: ``<|im_end|>`` becomes
        ``?|im_end|>``. Nothing else is touched, so that a template which trims or measures text does as before.
        """
        taken = set().union(*contents)
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in taken)
        hidden: dict[str, str] = {}

        def disguise(text: str) -> str:
            characters = list(text)
            # The look-ahead also finds tokens that overlap.
            where = {match.start() for match in self._control_start.finditer(text)}
            if text.strip():
                where |= {len(text) - len(text.lstrip()), len(text.rstrip()) - 1}
            for at in where:
                if text[at] not in hidden:
                    hidden[text[at]] = next(free)
                characters[at] = hidden[text[at]]
            return "".join(characters)

        disguised = [disguise(text) for text in contents]
        return disguised, {ord(cover): original for original, cover in hidden.items()}

    def _render(self, turns: list[dict[str, str]], thinking: bool | None, add_generation_prompt: bool) -> str:
        if thinking and not self.has_thinking_switch:
            raise ValueError("this model's chat template has no enable_thinking: set thinking to None or False")
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, "date_string": DATE}
        if thinking is not None:
            options["enable_thinking"] = thinking
        length = sum(len(turn["content"]) for turn in turns)
        if length > MAX_CHAT_CHARS:
            raise ValueError(f"the chat has {length} characters, the limit is {MAX_CHAT_CHARS}: drop this example")
        try:
            return str(self._stock.apply_chat_template(turns, tokenize=False, **options))
        except jinja2.exceptions.TemplateError as error:
            roles = [turn["role"] for turn in turns]
            raise ValueError(f"the chat template refuses a chat with roles {roles}: {error}") from error

    def _find_eos_ids(self, model_config: dict) -> tuple[int, ...]:
        """The end of an assistant's turn, then what the folder's files call EOS, each once."""
        answer = "Yes"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
        turn_end = self._control.search(self._render(turns, None, False).rpartition(answer)[2])
        found = [] if turn_end is None else [self._control_ids[turn_end.group()]]
        stated = self._generation_config.get("eos_token_id", model_config.get("eos_token_id"))
        for ids in (self._stock.eos_token_id, stated):
            found += ids if isinstance(ids, list) else [ids]
        eos_ids = tuple(dict.fromkeys(id for id in found if id is not None))
        if not eos_ids:
            raise ValueError("no EOS token: set eos_token in tokenizer_config.json")
        if max(eos_ids) >= self.vocab_limit:
            raise ValueError(f"EOS ids {eos_ids} go past the tokenizer's {self.vocab_limit} ids: files of two models?")
        return eos_ids

    def _check_like_stock(self) -> None:
        """Ids of harmless chats equal those of transformers, and a generation prompt is really added."""
        turns = [("user", "\n What is 2 + 2?\n"), ("assistant", "  It is 4. \n\n"), ("user", "a\tb \u00e9 \u4e2d")]
        messages = [Message(role, content) for role, content in turns]
        for stop in (1, 3):
            dicts = [{"role": message.role, "content": message.content} for message in messages[:stop]]
            stock = self._stock.encode(self._render(dicts, None, True), add_special_tokens=False)
            if self.encode_chat(messages[:stop]) != stock:
                raise ValueError(
                    "this tokenizer treats text beside control tokens in a way that is not implemented (lstrip, rstrip "
                    "or a SentencePiece prefix): use a byte-level BPE model (Qwen, Llama 3, SmolLM2)"
                )
        if self.encode_chat(messages[:1]) == self.encode_chat(messages[:1], add_generation_prompt=False):
            raise ValueError("the chat template ignores add_generation_prompt: use one that opens the assistant's turn")


def _stock_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of transformers, after the checks that transformers leaves out."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json: copy the tokenizer files of the model there; "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes them"
        )
    try:
        # AutoTokenizer may put a class of its own in place of what the file says (any tokenizer beside a qwen2 model
        # becomes a Qwen2Tokenizer, if need be an empty one), and may run code of the folder. This reads the file.
        stock = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise a wide range of types, Exception itself among them
        raise ValueError(f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {error}") from error
    if len(stock) < 2 or not stock.encode("a", add_special_tokens=False):
        raise ValueError(f"the tokenizer in {folder} knows no text: is tokenizer.json whole?")
    if not stock.chat_template:
        raise ValueError(f"{folder} has no chat template: take an instruct model, or put one in chat_template.jinja")
    if len(stock.get_chat_template()) > MAX_TEMPLATE_CHARS:
        raise ValueError(f"the chat template in {folder} is longer than {MAX_TEMPLATE_CHARS} characters: is it one?")
    return stock


def _without_added_tokens(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that cannot produce any added token.

    An unknown token stays where the model cannot do without (word-level). In byte-level BPE it goes too: SmolLM2 has
    no token for some control characters and would answer them with ``<|endoftext|>``; they are dropped instead.
    """
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model["type"] not in ("BPE", "WordLevel", "WordPiece"):
        raise ValueError(f"tokenizer model {model['type']} is not implemented: use a byte-level BPE model")
    added = {token["content"] for token in spec["added_tokens"]}
    if model["type"] == "BPE" and model["unk_token"] in added:
        model["unk_token"] = None
    for token in added - {model["unk_token"]}:
        model["vocab"].pop(token, None)
    spec.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _is_tokenizer_file(path: Path) -> bool:
    return path.is_file() and any(path.match(pattern) for pattern in hub.TOKENIZER_PATTERNS)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _content(number: int, message: Message) -> str:
    where = f"message {number} ({message.role})"
    if message.role not in ROLES:
        raise ValueError(f"{where}: role must be one of {ROLES}")
    return _valid_text(message.content, where)


def _valid_text(text: str, where: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{where} is {type(text).__name__}, not text: {text!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is no valid Unicode at character {error.start}: half a surrogate pair; decode the source as UTF-8"
        ) from error
    return text
