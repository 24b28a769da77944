"""Lint: the rules of verification and those that judge the work, over every run and study below a path."""
