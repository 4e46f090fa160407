"""Containers and references of virtual chunks, as tests make them."""

from icefs.engine.read.virtual import VirtualResolver
from icefs.engine.read.workers import Workers
from icefs.format.config.storage import (
    LocalFileSystemStore,
    VirtualChunkContainer,
)
from icefs.format.manifest.refs import VirtualRef


def container(url_prefix, store=None, name=None):
    """Makes a container of virtual chunks; of local files, if no store is given."""
    return VirtualChunkContainer(url_prefix, store or LocalFileSystemStore("/"), name)


def resolver(containers, authorized=()):
    """Makes a resolver of containers, of which the URL prefixes in `authorized` may be read."""
    return VirtualResolver(containers, dict.fromkeys(authorized), Workers(1))


def over(directory, *more):
    """Makes a resolver that may read a directory, and knows more containers."""
    prefix = directory.as_uri() + "/"
    return resolver([container(prefix), *more], [prefix])


def ref(location, offset=10, length=20, **checks):
    """Makes a reference to bytes of a location."""
    return VirtualRef(location, offset, length, **checks)
