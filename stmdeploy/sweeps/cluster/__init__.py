"""A sweep measured on the nodes of a Ray cluster.

``dispatching`` hands rows out and stores them, and ``node`` runs on a node; which nodes there are,
and how tasks reach them, is told by `stmdeploy.cluster`.
"""
