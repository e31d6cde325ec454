"""Crons: runs that start by themselves, on a schedule."""
