//! A configuration is read whole, or refused with at least one problem.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(problems) = server::config::parse("fuzz.yaml", text, &[], Path::new("/"), false) {
        assert!(!problems.is_empty());
    }
});
