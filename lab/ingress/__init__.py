"""A stand-in for ingress-nginx in the lab: it reads what the real one reads, and runs this machine's nginx.

It is not ingress-nginx and does not pretend to be: docs/reference/lab-ingress.md lists what it knows of it. lab.images starts
it (`python -m lab.ingress`) for the image registry.k8s.io/ingress-nginx/controller, with the flags of the real one.
manifests/ingress-nginx/ deploys either.

`kinds` are the objects, `settings` the tables of ConfigMap keys and annotations, `routing` decides which request goes where,
`nginx` writes that down as a configuration; these are pure. `certificates` checks Secrets, `proxy` owns the nginx process,
`controller` watches and brings all of it in line.
"""
