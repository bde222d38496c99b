//! A certificate request brings a key or a reason, whatever its bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| {
    if let Ok(csr) = certs::Csr::from_der(der) {
        assert_eq!(certs::PublicKey::from_spki_der(csr.public_key().spki_der()).as_ref(), Ok(csr.public_key()));
    }
});
