"""Objects in an S3 bucket: AWS, and the services that speak its protocol.

store          the store
access         requests about the objects of one bucket, each sent until there is an answer
object_reader  reads objects
object_writer  writes and copies objects, on a condition or none
parts          multipart uploads
deletion       deletes, in bulk where the service can
requests       the frequent requests: read, write, stat, list
options        the options of a service
headers        headers that a user adds to requests
checksums      the checksums of uploads
rooted         repositories whose keys begin with a slash
target         where a bucket is, and how its requests are signed
client         reaches a service, with or without AWS's configuration
direct         services that are named in full, and need no lookup
session        the AWS configuration, credentials and rare requests, by boto3
keys           the keys that sign requests, and their sources
answers        what services answer, told from what a proxy answers in their place
errors         what the errors of a service mean
"""
