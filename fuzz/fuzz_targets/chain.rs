//! A chain of anything is refused in bounded work, and never believed without an anchor.
#![no_main]

use certs::{Chain, Timestamp, Usage, VerifyOptions, verify_chain};

libfuzzer_sys::fuzz_target!(|ders: Vec<Vec<u8>>| {
    if let Ok(chain) = Chain::from_ders(ders.iter().map(Vec::as_slice)) {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        assert!(verify_chain(&chain, &[], &VerifyOptions::new(now, Usage::Client)).is_err());
        let anchors: Vec<_> = chain.certificates().cloned().collect();
        let _ = verify_chain(&chain, &anchors, &VerifyOptions::new(now, Usage::Client));
    }
});
