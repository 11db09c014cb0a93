"""Runnable comparisons; README.md has their method beside their numbers."""
