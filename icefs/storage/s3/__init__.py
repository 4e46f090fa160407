"""Objects in an S3 bucket: AWS, and the services that speak its protocol.

store     the store
options   the options of a service
target    where a bucket is, and how its requests are signed
client    reaches a service, with or without AWS's configuration
direct    services that are named in full, and need no lookup
session   AWS's configuration, credentials, endpoints and rare requests
requests  the frequent requests: read, write, stat, list
parts     multipart uploads
deletion  deletes, in bulk where the service can
answers   what services answer, told from what a proxy answers in their place
errors    what the errors of a service mean
"""
