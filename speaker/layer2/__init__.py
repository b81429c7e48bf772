"""ARP: who owns an address on the local segment, and how neighbours are told."""
