"""TRL: the loss of its self-distillation trainer on whole logits, and a whole step of that trainer.

The trainer is as close to RCSD as any: its teacher is the student itself with a longer prompt. Its step includes
``generate``.
"""

from __future__ import annotations

import functools
import os
import random
import tempfile
import threading

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

from benchmarks.case import Case
from benchmarks.peers.torch_model import DEVICE, device_peak, divergence, learn, model_of
from benchmarks.side import Once, serve

PAD, BOS, EOS, UNKNOWN = "w0", "w1", "w2", "w3"


def head_loss(
    student: torch.Tensor, head: torch.Tensor, teacher: torch.Tensor, teacher_head: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """As ``torch_model.HeadLoss``."""
    logits = torch.nn.functional.linear(student, head)
    with torch.no_grad():
        teacher_logits = torch.nn.functional.linear(teacher, teacher_head)
    return compute_full_logit_self_distillation_loss(logits, teacher_logits, distillation_alpha=0.5).mean()


class Turns(TrainerCallback):
    """Lets the trainer take one step for each call of ``take``."""

    def __init__(self):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)

    def take(self) -> None:
        """Returns after one more step."""
        self._go.release()
        self._done.acquire()

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Before generation."""
        self._go.acquire()

    def on_step_end(self, *_: object, **__: object) -> None:
        """After the update."""
        self._done.release()


def step(case: Case) -> Once:
    """Generation, teacher, student, AdamW by SDFTTrainer; in bfloat16 by autocast over float32 weights."""
    vocabulary = {f"w{index}": index for index in range(case.model.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)
    chance = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{chance.randrange(10, case.model.vocab_size)}" for _ in range(length))

    extra = case.teacher_prompt - case.prompt
    rows = [{"prompt": text(case.prompt), "privileged_context": text(extra)} for _ in range(256)]
    turns = Turns()
    config = SDFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=case.rows,
        num_generations=case.samples,
        max_completion_length=case.completion,
        max_prompt_length=case.teacher_prompt,
        distillation_mode="full_logits",
        distillation_alpha=0.5,
        teacher_model_kind="live",
        max_steps=1000,
        logging_steps=10**6,
        save_strategy="no",
        report_to=[],
        use_cpu=DEVICE == "cpu",
        bf16=case.dtype == "bfloat16",
        gradient_checkpointing=False,
        learning_rate=1e-6,
        temperature=1.0,
        generation_kwargs={"suppress_tokens": [0, 2]},  # nothing ends early
        disable_tqdm=True,
    )
    model, data = model_of(case, "float32"), Dataset.from_list(rows)
    trainer = SDFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[turns])

    def train() -> None:
        try:
            trainer.train()
        finally:
            os._exit(1)  # whoever waits for a step would wait for ever

    threading.Thread(target=train, daemon=True).start()
    return turns.take


if __name__ == "__main__":
    losses = {
        name: functools.partial(task, head_loss=head_loss)
        for name, task in (("divergence", divergence), ("learn", learn))
    }
    serve({**losses, "step": step}, device_peak)
