"""One file for each part of `benchmarks/vs_basicsr.py`; importing it loads neither torch's models nor basicsr."""
