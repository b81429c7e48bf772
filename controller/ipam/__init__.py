"""Address ranges, the ledger of who holds what, and allocation. Pure."""
