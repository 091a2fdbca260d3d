"""The nodes of a cluster: which there are, what they can run, and how tasks reach them.

``planning`` finds which nodes can run what (``kinds``, by their ``facts``), ``shipping`` brings
artifacts there, and ``ray_fleet`` is the only module that uses Ray.
"""
