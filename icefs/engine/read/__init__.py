"""Reading: sessions, and what they share.

session            a session that reads: the nodes of a snapshot, their chunks, the chunks' bytes
context            what every reader of an open repository needs
repo_state         a repository's status, metadata, feature flags and ops log
inspect            a repository's files as plain JSON values
assets             a repository's files, decoded once and cached
requests           the requests that read objects, within the limits of the configuration
preload            manifests that are fetched when a session opens
patterns           regular expressions of a configuration
limits             how much is read at once and kept in memory, as a configuration says
written            files that were just written, kept for their first reader
cache              a bounded cache that loads each key once at a time
chunks             an array's chunk references over all of its manifests
boxes              which of an array's manifests has a chunk index
refs               branches and tags of both spec versions
store_settings     how a configuration has the store used
virtual            virtual chunks: byte ranges of objects outside of the repository
virtual_azure      virtual chunks in Azure: accounts that the user named, and those that only the repository names
virtual_gcs        virtual chunks in Google Cloud Storage, at endpoints that the user named
virtual_endpoints  the S3 services that the user named, and those that only the repository names
workers            the thread pool of a repository
"""
