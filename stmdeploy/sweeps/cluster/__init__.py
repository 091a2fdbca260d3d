"""A sweep measured on the nodes of a Ray cluster.

``planning`` asks who can run what (``kinds``), ``dispatching`` hands rows out and takes them back,
``ray_fleet`` is the only place that knows Ray, and ``node`` is what runs on a node.
"""
