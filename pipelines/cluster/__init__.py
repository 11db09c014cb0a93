"""Runs on a cluster: stacks as files, what pods ask for and write, what a plan says of them."""
