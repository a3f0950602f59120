"""Tables, plots and pages from artefacts."""
