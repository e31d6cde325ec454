"""A view's frame: parse, call, dump; and the answers to everything that can go wrong."""
