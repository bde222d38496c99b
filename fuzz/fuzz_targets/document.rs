//! A document is read whole, or every problem has a line.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(problems) = xds::model::parse("fuzz.yaml", text) {
        assert!(!problems.0.is_empty());
    }
});
