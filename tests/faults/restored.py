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
    e = config.read(tiny_pod.get_config())
    mesh = sharding.make_mesh(sharding.MeshConfig(*map(int, sys.argv[2:5])))
    with jax.set_mesh(mesh):
        transformer, tokenizer = models.declared(e.model)
        source = sources.of(e, models.LanguageModel(transformer, {}, tokenizer), mesh)
        with checkpoint.Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            step, state, _, ahead = checkpoints.restore(models.abstract_state(e, transformer, mesh), source.meta)
        with checkpoint.Checkpoints(copy / "checkpoints") as checkpoints:
            checkpoints.save(step, state, source.meta, ahead=ahead)
        source.resume(step, ahead)
        batches = [fingerprints.describe(source.batch(state, t)[0]) for t in range(step, step + 3)]
        print(json.dumps({"leaves": fingerprints.describe(state), "batches": batches}), flush=True)


if __name__ == "__main__":
    main()
