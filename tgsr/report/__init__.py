"""Tables, plots and pages from artefacts.

A method's report is built with `builder.Report`; `tables`, `plots`, `strips` and `expectations` make what goes into it.
"""
