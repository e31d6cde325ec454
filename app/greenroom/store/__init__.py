"""Long-term memory: items in namespaces, the same that graphs see through `runtime.store`."""
