"""The format `netcdf3`."""

from collections.abc import Sequence
from typing import override

from icefs.errors import InternalError, NotShownError
from icefs.views.cf.limits import MAX_FILE_BYTES
from icefs.views.cf.model import Dataset, Variable
from icefs.views.cf.tree import FileWriter, NetCdfDirectory, NetCdfView
from icefs.views.cf.types import Rules
from icefs.views.extents import ExtentLayout, Literal
from icefs.views.interface import Decoder, Extent, Format, Hierarchy, Layout, LeftOut, Source, ViewDirectory
from icefs.views.netcdf3.header import Placed, encode_header, padded
from icefs.views.netcdf3.plan import Plan, byte_count, plan_of, slice_bytes
from icefs.views.netcdf3.records import RecordPart, RecordSource


class NetCdf3Writer(FileWriter):
    """Lays classic files out."""

    format_name = "netcdf3"

    def __init__(self) -> None:
        self.rules = Rules(
            has_wide_integers=False, has_unsigned=False, has_half=False, has_texts=False, is_big_endian=True
        )

    @override
    def left_out(self, dataset: Dataset) -> Sequence[LeftOut]:
        return plan_of(dataset).left_out

    @override
    def layout(self, dataset: Dataset) -> Layout:
        return layout_of(dataset, plan_of(dataset))


def layout_of(dataset: Dataset, plan: Plan) -> Layout:
    """Lays out a classic file.

    Args:
        dataset: What it shows, without groups inside and texts of any length.
        plan: How its variables lie in it.

    Raises:
        NotShownError: it is too large.
    """
    sizes = [padded(byte_count(dataset, variable)) for variable in plan.fixed]
    slices = [padded(slice_bytes(dataset, variable)) for variable in plan.records]
    begin = len(
        encode_header(dataset, _placed([*plan.fixed, *plan.records], [*sizes, *slices], 0), plan.record_dimension)
    )
    fixed = _placed(plan.fixed, sizes, begin)
    records = _placed(plan.records, slices, begin + sum(sizes))
    header = encode_header(dataset, [*fixed, *records], plan.record_dimension)
    extents = [Extent(0, len(header), Literal(header))]
    extents += [Extent(one.begin, byte_count(dataset, one.variable), _source(one.variable)) for one in fixed]
    size = begin + sum(sizes)
    if records and plan.record_dimension is not None:
        # Records of a variable that is the only one with records have no padding between them.
        record_size = sum(slices) if len(records) > 1 else slice_bytes(dataset, records[0].variable)
        parts = [
            RecordPart(one.begin - size, slice_bytes(dataset, one.variable), _source(one.variable)) for one in records
        ]
        total = record_size * dataset.dimensions[plan.record_dimension].size
        extents.append(Extent(size, total, RecordSource(parts, record_size)))
        size += total
    if size > MAX_FILE_BYTES:
        raise NotShownError(
            f"the arrays have {size} bytes together, more than a file can have", hint="read the view npy"
        )
    return ExtentLayout(extents, size)


def _placed(variables: Sequence[Variable], sizes: Sequence[int], begin: int) -> list[Placed]:
    placed = []
    for variable, size in zip(variables, sizes, strict=True):
        placed.append(Placed(variable, size, begin))
        begin += size
    return placed


def _source(variable: Variable) -> Source:
    if not isinstance(variable.content, Source):
        raise InternalError(f"{variable.name}: classic NetCDF has no texts of any length")
    return variable.content


class NetCdf3Format(Format):
    """Classic NetCDF: a file for each group with arrays."""

    name = "netcdf3"

    @override
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        return NetCdfDirectory(NetCdfView(hierarchy, decoder, NetCdf3Writer()))
