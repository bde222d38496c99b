//! Text becomes an Envoy resource that its own rules can judge, or a problem with a place.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let listener = proto::text::descriptor("envoy.config.listener.v3.Listener").expect("it is in the set");
    if let Ok(parsed) = proto::text::parse(&listener, text) {
        for violation in proto::pgv::validate(&parsed.message) {
            let _ = parsed.positions.find(&violation.path);
        }
    }
});
