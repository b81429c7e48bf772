"""Decides which Service gets which address, and writes that into its status."""
