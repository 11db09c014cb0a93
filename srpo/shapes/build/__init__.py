"""Builds the weights of the Shapes world; run `python -m srpo.shapes.build --output DIR`."""
