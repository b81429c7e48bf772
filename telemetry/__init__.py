"""What operators see: logs, metrics, health and status. Knows nothing of the domain."""
