"""The life of a run, told once: admitted, claimed, renewed, finished, handed back, swept."""
