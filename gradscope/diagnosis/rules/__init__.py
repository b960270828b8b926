"""Rules beside the verdict: what else people expect to be told about a training run.

A rule is one pure function from arrays to symptoms (`dead_units` and the others, in `activations`, `parameters` and
`learning`), row by row. `checker` adds what all rules share: warm-up, patience, and that a layer is told of once. The
catalogue (`catalogue.RULES`) holds names, defaults and their sources; docs/rules.md is written from it.
"""
