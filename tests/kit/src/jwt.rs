//! What a workload shows to a Vault that believes its issuer.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use certs::Clock;
use fixtures::TestKey;
use serde_json::{Value, json};
use server::clock::SystemClock;

/// A JWT of `credence` by ES256, for an audience and five minutes.
#[must_use]
pub fn jwt_by(key: &TestKey, audience: &str) -> String {
    let now = SystemClock.now().unix_secs();
    let claims = json!({ "iss": "https://issuer.example", "sub": "credence", "aud": audience, "iat": now,
        "nbf": now, "exp": now + 300 });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({ "alg": "ES256", "typ": "JWT" })), part(claims));
    // SEQUENCE { INTEGER r, INTEGER s } as two numbers of 32 octets.
    let der = key.sign(text.as_bytes());
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        raw.extend(std::iter::repeat_n(0, 32 - number.len()));
        raw.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw))
}
