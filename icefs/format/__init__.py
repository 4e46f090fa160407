"""The Icechunk format: bytes to frozen values and back. No I/O.

ids              identifiers of snapshots, manifests, chunks and nodes
layout           where each object of a repository lies
header           the header and the zstd frame around every file but the chunks
flat             FlatBuffers and FlexBuffers
snapshot         snapshot files
manifest         manifest files: chunk references
repo             the `repo` file of spec 2, and the ref files of spec 1
config           the configuration of a repository
transaction_log  transaction logs: the changes of one commit
chunk_tables     the tables that manifests and transaction logs share
chunk_indices    sorted chunk indices as columns
chunk_sizes      how many bytes an array's codecs allow for its chunks
metadata         encoded metadata values
metadata_items   named metadata values inside snapshots and `repo`
zarr_json        the fields of `zarr.json` that Icechunk needs
"""
