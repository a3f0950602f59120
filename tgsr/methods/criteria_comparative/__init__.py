"""Cria-CL: contrast between criteria: network and losses."""
