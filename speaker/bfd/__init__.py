"""Notices within a fraction of a second that the path to a router is broken: BFD (RFC 5880, 5881, 5883), in a process of its own.

Knows paths, packets and timers; knows nothing of BGP, Services or Kubernetes. A process of its own because a detection time of
150 ms forgives no pause, and a speaker that reads a list of ten thousand Services makes some.
"""
