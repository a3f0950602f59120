"""How anything that runs many things is written: studies, stages, sweeps, measurements. Knows no paper."""
