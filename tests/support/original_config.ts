/** The configuration in the README of the original program (2007), as it stands there. */
export const ORIGINAL_CONFIG = `[s3]
AWS_ACCESS_KEY_ID = 1234567890ABCDEFGHIK
AWS_SECRET_ACCESS_KEY = RXRXRXRXR123890713287525ABCDEFGGHIJKLzzz
BUCKET=the.name.of.the.bucket.to.create

#Stripe is the block device stripe size. 65536 is recommended.
#This is NOT the same as the block size
STRIPE=65536

#Volumesize is expressed in bytes, and should be a multiple of STRIPE
VOLUMESIZE=16777216

[server]
#PORT to listen on
port=9999

#Show a ludicrous amount of debug data in the logs?
debug=0

#cachesize is the max number of stripe elements to cache. 32 is about
#2M here. We recommend large caches to prevent blocking the device.
cachesize=1024

#The amount of time to store a local cache stripe. 60 is a good default.
cachettl=60
`;
