"""GRIDS: how similar degradations are, one network per group of similar ones, and the right network for any image.

Cao et al., "Grouped Multiple-Degradation Restoration with Image Degradation Similarity", section by section:
`descriptor.py` and `ggd.py` (4.1, 4.2: deep representations and their distribution), `similarity.py` (4.2: matrix S),
`search.py` (5.1: preprocessing and Algorithm 1) with its oracle in `oracle.py`, `router.py` (5.2: selection and
generalisation), `printed.yml` (what the paper reports).
"""
