"""Webhooks: which addresses may be called, what is owed to them, how it is sent and told."""
