"""Objects in an S3 bucket: AWS, and the services that speak its protocol.

store     the store
options   the options of a service
target    where a bucket is, and how its requests are signed
client    reaches a service, with or without AWS's configuration
direct    services that are named in full, and need no lookup
session   the AWS configuration, credentials and rare requests, by boto3
keys      the keys that sign requests, and their sources
requests  the frequent requests: read, write, stat, list
parts     multipart uploads
deletion  deletes, in bulk where the service can
answers   what services answer, told from what a proxy answers in their place
errors    what the errors of a service mean
"""
