"""The peers, each in an environment of its own (``install.sh``), doing our tasks with the same sizes.

All peers compute a prompt once for every completion of it; none of them can share it.
"""
