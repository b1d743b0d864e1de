"""Liger-Kernel's chunked JSD under torch.compile, gradients made in the forward pass, around a transformers model."""

from __future__ import annotations

import functools

import torch
from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

from benchmarks.peers.torch_model import device_peak, divergence, learn
from benchmarks.side import serve

LOSS = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=True)


def head_loss(
    student: torch.Tensor, head: torch.Tensor, teacher: torch.Tensor, teacher_head: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """As ``torch_model.HeadLoss``."""
    return LOSS(student.flatten(0, 1), head, teacher.flatten(0, 1), teacher_head, tokens.flatten())


if __name__ == "__main__":
    tasks = {"divergence": divergence, "learn": learn}
    serve({name: functools.partial(task, head_loss=head_loss) for name, task in tasks.items()}, device_peak)
