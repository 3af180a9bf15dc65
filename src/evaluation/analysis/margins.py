"""The margins of the claims. They are below :mod:`evaluation.claims`, as the power of a design needs them too."""

R2_AT_LEAST = 0.99
FLAT_WITHIN = 0.10  # of the median, over the whole depth
AS_FAST_UP_TO = 1.05  # times the hand-written offload
SLOWER_BY_MS = 0.1  # at most, where either keeps the frontier on the device: of such times a ratio says little
TIMES_FASTER = 20  # than recompute, at the last layers
SESSIONS = 50
# A narrower interval that holds the margin leaves a claim fairly undecided, a wider one needs more processes.
NARROW = 0.06
NARROW_MS = 0.12
LAYERS_FOR_A_LINE = 3  # two points are always on a line
