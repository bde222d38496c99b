//! A discovery request that does not decode ends the stream and nothing else.
#![no_main]

use prost::Message;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let _ = DiscoveryRequest::decode(message);
    let _ = DeltaDiscoveryRequest::decode(message);
});
