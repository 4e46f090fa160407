"""An HDF5 file in memory that has everything but the elements of arrays.

h5py writes it into an anonymous file: groups, attributes, dimension scales, and for each variable a contiguous dataset
whose space is allocated and never written. Such space is a hole and takes no memory, so that a file of petabytes has a
template of some kilobytes. The file of the view is the template's bytes, with decoded elements in the holes.

The bytes depend on the description alone: HDF5 records no times here.

Source: NetCDF-4 file format (netcdf-c, "NetCDF-4 Format"); HDF5 "Dimension Scale Specification".
"""

import os
from collections.abc import Iterator
from io import FileIO
from typing import Final

import h5py
import numpy as np
from h5py import h5a, h5d, h5ds, h5f, h5fd, h5g, h5p, h5s, h5t

from icefs.errors import NotShownError
from icefs.views.cf.limits import MAX_FILE_BYTES
from icefs.views.cf.model import Dataset, Value, Variable
from icefs.views.cf.names import NON_COORDINATE_PREFIX
from icefs.views.cf.types import TEXTS
from icefs.views.cf.values import element_count
from icefs.views.extents import ExtentLayout, Literal
from icefs.views.interface import Extent, Layout, Source

_NO_VARIABLE: Final = "This is a netCDF dimension but not a netCDF variable.{:>10}"
_MAX_TEMPLATE_BYTES: Final = 128 << 20
_TRACKED: Final = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED
_TEXT_TYPE: Final = h5py.string_dtype()
_SCALES_TYPE: Final = h5py.vlen_dtype(h5py.ref_dtype)
_USERS_TYPE: Final = np.dtype([("dataset", h5py.ref_dtype), ("dimension", np.uint32)])


def layout_of(dataset: Dataset) -> Layout:
    """Lays out a NetCDF-4 file.

    Raises:
        NotShownError: it is too large.
    """
    total = sum(
        element_count(group.shape(variable)) * variable.dtype.itemsize
        for group in dataset.all_groups()
        for variable in group.variables
    )
    if total > MAX_FILE_BYTES:
        raise NotShownError(
            f"the arrays have {total} bytes together, more than a file can have", hint="read the view npy"
        )
    with FileIO(os.memfd_create("icefs-netcdf", os.MFD_CLOEXEC), "w+b") as file:
        with _open(file) as root:
            holes = _Template().write(root, dataset)
        size = file.seek(0, os.SEEK_END)
        extents = sorted([*holes, *_metadata(file.fileno(), holes, size)], key=lambda extent: extent.offset)
    return ExtentLayout(extents, size)


def _open(file: FileIO) -> h5py.File:
    """Creates an HDF5 file in a file; programs with HDF5 1.8 read it where nothing in it is newer than that."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_V110)
    return h5py.File(h5f.create(b"template", h5f.ACC_TRUNC, _without_times(h5p.FILE_CREATE), access))


def _without_times(kind: h5p.PropClassID) -> h5p.PropOCID:
    """Makes the properties of a file or group: with the order of creation, which NetCDF needs, and without times."""
    created = h5p.create(kind)
    created.set_link_creation_order(_TRACKED)
    created.set_attr_creation_order(_TRACKED)
    created.set_obj_track_times(False)
    return created


class _Template:
    """Writes one file."""

    def __init__(self) -> None:
        self._number = 0

    def write(self, group: h5py.Group, dataset: Dataset) -> list[Extent]:
        """Writes a group and all groups inside; returns the places of elements."""
        coordinates = {variable.name: variable for variable in dataset.variables if dataset.is_coordinate(variable)}
        names = {dimension.name for dimension in dataset.dimensions}
        made: list[tuple[Variable, h5py.Dataset]] = []
        scales = []
        users: list[list[tuple[h5py.Reference, int]]] = [[] for _ in dataset.dimensions]
        for dimension in dataset.dimensions:
            coordinate = coordinates.get(dimension.name)
            if coordinate is None:
                scale = _create(group, dimension.name, (dimension.size,), np.dtype(">f4"), is_early=False)
                h5ds.set_scale(scale.id, _NO_VARIABLE.format(dimension.size).encode())
            else:
                scale = _create(group, dimension.name, (dimension.size,), coordinate.dtype, is_early=True)
                h5ds.set_scale(scale.id, dimension.name.encode())
                made.append((coordinate, scale))
            scale.attrs.create("_Netcdf4Dimid", self._number, dtype="i4")
            self._number += 1
            scales.append(scale)
        for variable in dataset.variables:
            if variable.name in coordinates:
                continue
            name = f"{NON_COORDINATE_PREFIX}{variable.name}" if variable.name in names else variable.name
            created = _create(group, name, dataset.shape(variable), variable.dtype, is_early=True)
            _name_scales(created, [scales[position] for position in variable.dimensions])
            for axis, position in enumerate(variable.dimensions):
                users[position].append((created.ref, axis))
            made.append((variable, created))
        for scale, own_users in zip(scales, users, strict=True):
            if own_users:
                scale.attrs.create("REFERENCE_LIST", np.array(own_users, _USERS_TYPE))
        holes = []
        for variable, created in made:
            _write_attributes(created, variable.attributes)
            holes += _place(variable, created)
        _write_attributes(group, dataset.attributes)
        for name, inner in dataset.groups.items():
            holes += self.write(_create_group(group, name), inner)
        return holes


def _create_group(parent: h5py.Group, name: str) -> h5py.Group:
    return h5py.Group(h5g.create(parent.id, name.encode(), gcpl=_without_times(h5p.GROUP_CREATE)))


def _create(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype, *, is_early: bool) -> h5py.Dataset:
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_layout(h5d.CONTIGUOUS)
    is_text = dtype == TEXTS
    # HDF5 refuses texts of any length that are not filled; they are written here, so it does no harm.
    created.set_fill_time(h5d.FILL_TIME_IFSET if is_text else h5d.FILL_TIME_NEVER)
    # The space of a dimension without a variable is never allocated: nothing reads it.
    created.set_alloc_time(h5d.ALLOC_TIME_EARLY if is_early else h5d.ALLOC_TIME_LATE)
    created.set_attr_creation_order(_TRACKED)
    created.set_obj_track_times(False)
    space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    stored = h5t.py_create(_TEXT_TYPE if is_text else dtype, logical=True)
    return h5py.Dataset(h5d.create(group.id, name.encode(), stored, space, created))


def _name_scales(created: h5py.Dataset, scales: list[h5py.Dataset]) -> None:
    """Writes which scale each dimension of a dataset has.

    HDF5's own function also adds the dataset to a list at the scale, and copies the list each time, which is slow for
    thousands of datasets; here the lists are written once.
    """
    if scales:
        references = np.empty(len(scales), object)
        for axis, scale in enumerate(scales):
            references[axis] = np.array([scale.ref], h5py.ref_dtype)
        created.attrs.create("DIMENSION_LIST", references, dtype=_SCALES_TYPE)


def _place(variable: Variable, created: h5py.Dataset) -> list[Extent]:
    """Returns where the elements of a variable are in the file; texts of any length are written right away."""
    if not isinstance(variable.content, Source):
        if variable.content.size:
            created[...] = variable.content.reshape(created.shape)
        return []
    offset = created.id.get_offset()
    size = element_count(created.shape) * variable.dtype.itemsize
    return [] if offset is None or not size else [Extent(offset, size, variable.content)]


def _write_attributes(owner: h5py.Group | h5py.Dataset, attributes: dict[str, Value]) -> None:
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            space = h5s.create_simple(value.shape)
            h5a.create(owner.id, name.encode(), h5t.py_create(value.dtype), space).write(value)
        elif isinstance(value, tuple):
            owner.attrs.create(name, [*value], dtype=_TEXT_TYPE)
        else:
            _write_text(owner, name, value.encode())


def _write_text(owner: h5py.Group | h5py.Dataset, name: str, text: bytes) -> None:
    """Writes a text of fixed length; one of variable length is a `string` for nco and ncdump."""
    stored = h5t.C_S1.copy()
    stored.set_size(max(len(text), 1))
    stored.set_cset(h5t.CSET_UTF8)
    stored.set_strpad(h5t.STR_NULLPAD)
    if text:
        attribute = h5a.create(owner.id, name.encode(), stored, h5s.create(h5s.SCALAR))
        attribute.write(np.array(text), mtype=stored)
    else:
        h5a.create(owner.id, name.encode(), stored, h5s.create(h5s.NULL))


def _metadata(descriptor: int, holes: list[Extent], size: int) -> Iterator[Extent]:
    """Yields what h5py wrote between the places of elements.

    Raises:
        NotShownError: it is too large.
    """
    total, start = 0, 0
    ends = [(hole.offset, hole.offset + hole.size) for hole in sorted(holes, key=lambda hole: hole.offset)]
    for stop, following in [*ends, (size, size)]:
        for first, last in _written(descriptor, start, stop):
            total += last - first
            if total > _MAX_TEMPLATE_BYTES:
                raise NotShownError(
                    f"the header of the NetCDF file is larger than {_MAX_TEMPLATE_BYTES >> 20} MiB",
                    hint="read the arrays in the view zarr2 or npy",
                )
            yield Extent(first, last - first, Literal(_read(descriptor, first, last)))
        start = following


def _written(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges of a part of a file that were written; the kernel rounds them to pages."""
    while start < stop:
        try:
            first = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # no data follows
            return
        if first >= stop:
            return
        last = min(os.lseek(descriptor, first, os.SEEK_HOLE), stop)
        yield first, last
        start = last


def _read(descriptor: int, start: int, stop: int) -> bytes:
    parts = []
    while start < stop:
        part = os.pread(descriptor, stop - start, start)
        parts.append(part)
        start += len(part)
    return b"".join(parts)
