"""SWIM + Lifeguard membership, wire-compatible with hashicorp/memberlist."""
