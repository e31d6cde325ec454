"""Threads: what a conversation remembers, and its state through time."""
