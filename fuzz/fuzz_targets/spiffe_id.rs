//! A SPIFFE ID that parses reads back as the same bytes.
#![no_main]

use spiffe::SpiffeId;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
        let _ = id.class();
    }
});
