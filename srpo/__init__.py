"""SRPO: align a text-to-image model with human preference in about twenty updates (arXiv:2509.06942)."""

__version__ = "0.1.0"
