"""Methods side by side: every way to adapt a base to a dataset, measured by one call on the same rows.

``measure`` measures one method from one seed, ``measure_many`` any number of them: what moves nothing but bias vectors
and the head is trained in shared passes, the rest one by one. ``METHODS`` lists the methods.
"""
