"""All that a pod does, in one start: train, evaluate, export, write rubrics. ``--workdir`` is the only flag."""

import tiny_pod

from rcsd_jax import command, config
from rcsd_jax.train import train
from rcsd_jax.write_rubrics import write_rubrics


def main():
    workdir = command.required_workdir()
    train(config.read(tiny_pod.get_config("everything")), f"{workdir}/everything")
    write_rubrics(config.read(tiny_pod.get_config("rubrics")), f"{workdir}/rubrics")


if __name__ == "__main__":
    command.start(main)
