"""Announces the addresses of Services to routers over BGP, through a child process that runs ExaBGP.

Knows peers, prefixes and attributes; knows nothing of Services, elections or Kubernetes. This package owns what is to be
announced; ExaBGP keeps the TCP sessions and speaks RFC 4271.
"""
