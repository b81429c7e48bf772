"""A cluster on one machine: namespaces, an API server, workloads, clients."""
