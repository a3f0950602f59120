"""Cria-CL: contrast between criteria (Shi, Li et al., "Criteria Comparative Learning for Real-scene Image SR").

The paper in order: `networks.py` (equations 4 and 10, and the topology of the published weights), `criteria.py`
(equation 5: criteria as tensors), `losses.py` (equations 6 to 9 as pure functions and as losses of an option file).
`masks.py` shows which regions each branch owns, `hazard.py` what equation 8 does as
printed, `efficiency.py` measures Table VII, `printed.yml` holds what the
paper prints and `reporting.py` puts measured values beside it.
"""
