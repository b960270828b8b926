"""Penalties on weights and outputs, their strength over time, and how they reach an optimizer."""
