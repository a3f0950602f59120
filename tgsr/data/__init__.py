"""Data sets, their back ends, the plan of which sample is drawn when, and the benchmark builder."""
