"""Redis: the bell, the wish to cancel, the count of attempts, the channels. Nothing that lasts."""
