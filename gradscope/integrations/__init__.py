"""Lightning, Hugging Face and others. Each module needs the package it is named after.

Nothing here yet: a plain loop needs no integration, and `gradscope.record` works in any loop.
"""
