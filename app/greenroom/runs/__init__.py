"""Runs: created, waited for, streamed, joined, cancelled, deleted."""
