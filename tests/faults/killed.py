"""What is killed: a run of one kind in a process of its own, from a server that has imported everything already."""

import multiprocessing
import os

import numpy as np
import tiny_pod

from rcsd_jax import config, questions, rewards
from rcsd_jax.train import train
from rcsd_jax.write_rubrics import write_rubrics

questions.load(config.read(tiny_pod.get_config()).data, "train")  # the science world takes seconds to set up


def digits(problems, texts, variables):
    """A reward that a random model can earn: the share of digits in what it writes."""
    del problems, variables
    shares = np.array([[sum(map(str.isdigit, text)) / max(1, len(text)) for text in samples] for samples in texts])
    return rewards.Earned(shares, {})


def run(kind, folder):
    """The run of ``kind`` in ``folder``, from its beginning or from where it is."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # one device
    if kind == "grpo":
        rewards.Reward = lambda experiment, model, mesh: digits
    e = config.read(tiny_pod.get_config(kind))
    (write_rubrics if kind == "rubrics" else train)(e, str(folder))


def started(kind, folder):
    """The process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=run, args=(kind, folder))
    process.start()
    return process
