"""Kubernetes over asyncio: credentials, lists, watches, patches, events. Knows nothing of load balancing."""
