"""A small durable Kubernetes API server for the lab and the tests."""
