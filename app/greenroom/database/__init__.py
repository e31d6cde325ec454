"""Postgres: the engine, the tables, the migrations."""
