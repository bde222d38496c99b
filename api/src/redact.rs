//! Public resources as JSON with every place that can hold a key blanked out.

use prost_types::Any;
use proto::text;
use serde_json::Value;

const REDACTED: &str = "[redacted]";

/// Fields that hold credentials wherever they stand.
const CREDENTIALS: [&str; 7] =
    ["password", "private_key_provider", "hmac_secret", "token_secret", "client_secret", "api_key", "keys"];

/// Fields whose inline data sources are public.
const PUBLIC_SOURCES: [&str; 6] =
    ["trusted_ca", "certificate_chain", "body", "crl", "text_format_source", "ocsp_staple"];

/// The message in `any`, or `None` if its type is not among those that we know.
pub(crate) fn to_redacted_json(any: &Any) -> Option<Value> {
    let name = any.type_url.rsplit('/').next()?;
    let message =
        prost_reflect::DynamicMessage::decode(text::descriptor(name)?, any.value.as_slice()).ok()?;
    let mut json = text::to_json(&message).ok()?;
    redact(&mut json, "");
    Some(json)
}

fn redact(value: &mut Value, parent: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let inline = matches!(name.as_str(), "inline_bytes" | "inline_string");
                if (inline && !PUBLIC_SOURCES.contains(&parent)) || CREDENTIALS.contains(&name.as_str()) {
                    *field = Value::String(REDACTED.to_owned());
                } else {
                    redact(field, name);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, parent)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_keys_and_keeps_public_sources() {
        let mut value = serde_json::json!({
            "tls_certificates": [{
                "private_key": {"inline_bytes": "c2VjcmV0"},
                "certificate_chain": {"inline_string": "PUBLIC"},
                "password": {"inline_string": "hunter2"},
            }],
            "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
        });
        redact(&mut value, "");
        let text = value.to_string();
        assert!(!text.contains("c2VjcmV0") && !text.contains("hunter2"), "{text}");
        assert!(text.contains("PUBLIC") && text.contains("hello"), "{text}");
    }
}
