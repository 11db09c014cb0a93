"""Compositions of steps, and what submits them."""
