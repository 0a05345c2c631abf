"""One module for each DVC stage, named like the stage: reads its settings, calls the library."""

import os

# Before a stage imports torch: GNU OpenMP's threads shall not spin for long while they wait for
# each other. On two cores with two other busy processes a training step takes 0.1 s so, and over
# 1 s as the library would have it; on an idle machine it takes as long either way.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
