// An S3 gateway over a folder, for the tests of the `s3` sink.
module dogwatch/peers/s3

go 1.25.0

require github.com/versity/versitygw v1.8.0
