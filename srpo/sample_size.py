"""How many prompts it takes; on its own, so that the command line says it without loading more."""

MIN_PROMPTS = 5
"""Prompts that an interval needs. A resample cannot leave the range of its sample: of 2, 3, 4 and 5 prompts without a
difference, 51, 74, 87 and 92 % of the 95 % intervals hold it, and a gate promotes 25, 13, 6 and 3 %."""
