"""Which of MetalLB's tests are shown here by which of ours: titles.toml, the mark `parity`, and the page made of a run."""
