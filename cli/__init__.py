"""lbctl: ask the running processes why a Service has (no) address and who announces it."""
