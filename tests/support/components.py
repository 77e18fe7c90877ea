"""Which components of its module's bias a site has, counted one by one."""

from beft.sites.site import BiasSite


def components(site: BiasSite) -> list[int]:
    """Their indices, in order."""
    span = range(site.start, site.stop)
    return [at for at in span if not site.stride or (at - site.start) % site.stride < site.block]
