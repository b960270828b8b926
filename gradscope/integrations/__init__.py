"""Callbacks for Lightning and Hugging Face, and sinks for the tools that show curves.

Each module needs the package it is named after, and nothing here is imported by ``import gradscope``.
"""
