"""Decides which node announces each address, and announces it."""
