"""What can be run in the lab, each one module with a run() function."""
