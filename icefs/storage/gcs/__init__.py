"""Objects in a bucket of Google Cloud Storage.

store        the store
writer       writes and copies objects, on a condition or none
reader       reads objects
uploads      the requests of an upload, whole or in parts
access       requests about the objects of one bucket, each sent until there is an answer
connection   Google's client, with a session of its own and bounded answers
errors       what the errors of the service and of Google's libraries mean
credentials  keys, and Google's objects made of them
options      the options of the service
"""
