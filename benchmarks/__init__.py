"""How fast and how large: every phase against its peers and against what the machine can do.

python -m benchmarks.run --suite=cpu --peers      # see docs/results/speed.md
python -m benchmarks.growth                       # memory and work against every size, from abstract shapes

case     sizes: a model, a batch, a number type
work     floating point operations, bytes and disk bytes of a case, counted from its sizes
side     a process that does one task each time it is told to; the only thing that peers share with us
ours     our tasks
peers/   theirs, each in an environment of its own
rows     the rows of the suites: a case, our task, the peers' tasks
run      sides take turns; medians, spread, bounds
page     docs/results/speed.md from the measurements beside it
growth   curves
"""
