"""One ZenML step per file: a typed signature, one call into srpo, named outputs."""
