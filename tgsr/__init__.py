"""tgsr: training of image-restoration networks that serve many real-world degradations at once."""

import os

__version__ = "0.1.0"

# OpenMP reads this once, when torch loads it; loader workers and ranks inherit it. Its threads spin by default while
# they wait for each other: beside other processes they then take the processor from those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
