"""Random faults for minutes, and whether every address always came back to the one node that should have it.

plan says what goes wrong when, for a seed; driver does it to a real lab and records; verdicts judges the record. The judges
know frames, times and numbers only: none of the product's code is among them.
"""
