"""Assistants: a graph with a configuration of its own, in versions."""
