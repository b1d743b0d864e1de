"""Sizes. Standard library only: peers read them in environments of their own."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Model:
    """A dense decoder with random weights; ``family`` is "llama" or "qwen3" (which norms queries and keys)."""

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    tied: bool = True

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers; norms are left out."""
        attention = self.width * self.head_width * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_width)

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.vocab_size * self.width

    @property
    def weights(self) -> int:
        """All weights that are stored."""
        return self.layer_weights + self.head_weights * (1 if self.tied else 2)


SMOL = Model("llama", 49152, 576, 30, 9, 3, 64, 1536)  # SmolLM2-135M
QWEN_06B = Model("qwen3", 151936, 1024, 28, 16, 8, 128, 3072)
QWEN_17B = Model("qwen3", 151936, 2048, 28, 16, 8, 128, 6144)
QWEN_8B = Model("qwen3", 151936, 4096, 36, 32, 8, 128, 12288, tied=False)
NARROW = Model("llama", 8192, 256, 4, 4, 2, 64, 1024)
TINY = Model("llama", 512, 32, 2, 2, 1, 16, 64)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed: rows = questions * samples; samples of a question are neighbours and have the same prompt.

    Attributes:
      model: the decoder.
      questions: prompts in a batch.
      samples: completions of each.
      prompt: tokens of a student prompt; all are real, nothing is padding.
      teacher_prompt: tokens of a teacher prompt.
      completion: tokens of a completion; none ends early.
      dtype: of the arithmetic: "float32" or "bfloat16".
      param_dtype: of the stored weights; bfloat16 only where they do not learn.
      lora: rank of the adapters that learn; 0: all weights learn.
      micro_batches: parts of the train step.
      remat: what is kept for the backward pass (``lm.Compute``); peers keep what they keep by default.
    """

    model: Model
    questions: int = 1
    samples: int = 8
    prompt: int = 256
    teacher_prompt: int = 512
    completion: int = 128
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    lora: int = 0
    micro_batches: int = 1
    remat: str = "attention"

    @property
    def rows(self) -> int:
        """Completions."""
        return self.questions * self.samples

    @property
    def tokens(self) -> int:
        """Completion tokens: what a rate counts."""
        return self.rows * self.completion

    def unshared(self) -> Case:
        """As many rows, each a completion of a prompt of its own."""
        return dataclasses.replace(self, questions=self.rows, samples=1)

    def tiny(self) -> Case:
        """The same kind of case at sizes that take a moment on any machine."""
        model = dataclasses.replace(TINY, family=self.model.family, tied=self.model.tied)
        few = {"questions": min(self.questions, 2), "samples": min(self.samples, 2), "lora": min(self.lora, 2)}
        lengths = {"prompt": 8, "teacher_prompt": 12, "completion": 4}
        return dataclasses.replace(self, model=model, micro_batches=1, **few, **lengths)

    def to_json(self) -> str:
        """For the command line of a side."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(Model(**fields.pop("model")), **fields)
