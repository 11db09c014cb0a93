"""Base, candidate and champion: same held-out prompts and noise, many metrics with their uncertainty, a verdict.

contenders -> images -> scores -> paired statistics -> gate -> report. The trained rewards should decide nothing alone.
"""
