"""Object stores behind one interface.

base         the interface of a store, and what every store promises
url          locations as users write them
local        objects as files below a directory
s3           objects in an S3 bucket
http         objects behind a web server, read-only
memory       objects in memory
cache        the disk cache in front of a remote store
metered      counts requests, bytes, times and errors
retry        retries with back-off and jitter
http_client  HTTP requests, with redirects within bounds
range_reads  many range reads over HTTP on one thread
answers      whether an HTTP answer comes from the store
proxies      the proxy that the environment names
"""
