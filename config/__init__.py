"""What users may say, and what it means: CRD kinds, their bounds and the compiled configuration. Pure."""
