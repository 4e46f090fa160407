"""Objects in a container of Azure Blob Storage, through Microsoft's own library (the extra `icefs[azure]`).

store          the store
object_writer  writes and copies blobs, on a condition or none
deletion       deletes, in bulk where the service can
object_reader  reads and describes blobs
access         requests about the blobs of one container, each sent until there is an answer
session        connections, and which answers are believed
credentials    where keys, signatures and tokens come from
errors         what the library's errors mean
options        the options of a service
"""
