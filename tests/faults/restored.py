"""What a run would go on with on these devices: what it restores, and its next batches, by their fingerprints.

python restored.py RUN DATA FSDP TENSOR COPY      # what RUN holds, on such a mesh, is saved again in COPY
"""

import json
import sys
from pathlib import Path

import jax
import tiny_pod

from rcsd_jax import checkpoint, config, fingerprints, hosts, models, sharding, sources


def main():
    hosts.join()
    run, copy = Path(sys.argv[1]), Path(sys.argv[5])
    e = config.read(tiny_pod.get_config("ahead"))
    mesh = sharding.make_mesh(sharding.MeshConfig(*map(int, sys.argv[2:5])))
    with jax.set_mesh(mesh):
        model = models.of(e, mesh)
        transformer = model.transformer
        source = sources.of(e, model, mesh)
        with checkpoint.Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            step, restored, _, ahead = checkpoints.restore(models.abstract_state(e, transformer, mesh), source.meta)
        with checkpoint.Checkpoints(copy / "checkpoints") as checkpoints:
            checkpoints.save(step, restored, source.meta, ahead=ahead)
        assert ahead
        source.resume(step, ahead)
        state = models.whole(restored, model)
        first, *others = [source.batch(state, t)[0].rollout for t in range(step, step + 3)]
        # The first was sampled ahead and is what was stored; numbers of the others are rounded as these devices do.
        batches = [first, *(rollout.completion_BC for rollout in others)]
        told = {"leaves": fingerprints.describe(restored), "batches": list(map(fingerprints.describe, batches))}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
