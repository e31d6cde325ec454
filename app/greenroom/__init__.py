"""Greenroom: a self-hosted server for LangGraph agents."""

__version__ = "0.1.0"
