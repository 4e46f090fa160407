"""Views: the arrays of a tree in the formats of programs that read no Zarr v3.

formats    the formats that there are, by their names
netcdf4    NetCDF-4 files
netcdf3    classic NetCDF files
zarr2      Zarr v2
npy        numpy's files
cf         the arrays of groups as NetCDF and its CF conventions describe data
interface  what formats, decoding, mounts and exports ask of each other
hierarchy  the nodes and chunks of a snapshot
walk       all files of a view
parts      a group or an array of a hierarchy, as a hierarchy of its own
ranges     ranges of numbers
names      names that programs and file systems take, each given once
left_out   the log of what views leave out
extents    files put together from known bytes, decoded elements and gaps

Decoding:

decoder       opens the arrays of a hierarchy; what all views of a mount decode with
elements      the elements of an array in C order, put together from its chunks
geometry      ranges in C order, rectangles of elements, and blocks of chunks
scans         readers that go through an array in order
chunk_source  the chunks of one array, fetched and decoded
chunk_cache   decoded chunks in memory, with a limit
codecs        the codecs of an array, by zarr-python
inflation     decompression with a limit
raw_pieces    large chunks without compression, read in pieces
"""
