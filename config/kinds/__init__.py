"""One module per custom resource kind; KINDS is the registry that generators and informers iterate."""
