"""A sweep measured on the nodes of a Ray cluster.

``planning`` finds which nodes can run which rows (``kinds``), ``dispatching`` hands rows out and
stores them, ``ray_fleet`` is the only module that uses Ray, and ``node`` runs on a node.
"""
