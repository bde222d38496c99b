module credence.invalid/peers/pebble

go 1.25.1

require github.com/letsencrypt/pebble/v2 v2.10.1
