//! Envoy's Secret messages, encoded at once into opaque resources. The only file of this crate that reads a key.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{Chain, SecretKey, Timestamp, certificates_to_pem};
use prost::{Message, Name};
use prost_types::Any;
use proto::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
        spiffe_cert_validator_config,
    },
};
use spiffe::{Trust, TrustBundle};
use xds::{Resource, TypeUrl, Version};
use zeroize::Zeroizing;

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// A key and its chain as an encoded `TlsCertificate`, ready to be sent under any name. Zeroed when dropped.
pub(crate) struct Material(Zeroizing<Vec<u8>>);

impl Material {
    /// Encodes `key` with `chain`; the key itself is dropped here.
    pub(crate) fn encode(chain: &Chain, key: SecretKey) -> Self {
        let mut pem = private_key_pem(&key);
        drop(key);
        let mut message = TlsCertificate {
            certificate_chain: Some(inline(chain.to_pem().into_bytes())),
            private_key: Some(inline(std::mem::take(&mut *pem))),
            ..Default::default()
        };
        // Sized before it is filled: a buffer that grew would leave the key in the pieces it left behind.
        let mut encoded = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
        message.encode(&mut *encoded).expect("a buffer of that length holds it");
        if let Some(Specifier::InlineBytes(bytes)) =
            message.private_key.take().and_then(|source| source.specifier)
        {
            drop(Zeroizing::new(bytes));
        }
        Self(encoded)
    }

    /// As the secret of that name. The version is keyed, so that nobody can test guesses against it.
    pub(crate) fn to_resource(&self, name: &Arc<str>, version_key: &[u8; 32]) -> Arc<Resource> {
        const NAME_AND_HEADERS: usize = 32;
        let name_text = name.to_string();
        let mut content = Vec::with_capacity(name_text.len() + self.0.len() + NAME_AND_HEADERS);
        prost::encoding::string::encode(1, &name_text, &mut content);
        prost::encoding::bytes::encode(2, &*self.0, &mut content);
        let version = Version::keyed(version_key, &content);
        Arc::new(Resource::with_version(TypeUrl::Secret, Arc::clone(name), version, content, Vec::new()))
    }
}

/// The roots of `bundle` that are valid now, as a validation context of that name. `None` without any: an empty
/// context would be refused by Envoy, and must never look like trust in nobody.
pub(crate) fn context(name: &Arc<str>, bundle: &TrustBundle, now: Timestamp) -> Option<Arc<Resource>> {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(valid_roots_pem(bundle, now)?)),
        ..Default::default()
    };
    Some(public(name, context))
}

/// Every bundle, each for the identities of its own trust domain only (SPIFFE Federation 7.3).
pub(crate) fn all_bundles(name: &Arc<str>, trust: &Trust, now: Timestamp) -> Option<Arc<Resource>> {
    let trust_domains: Vec<_> = trust
        .bundles()
        .filter_map(|bundle| {
            Some(spiffe_cert_validator_config::TrustDomain {
                name: bundle.trust_domain().to_string(),
                trust_bundle: Some(inline(valid_roots_pem(bundle, now)?)),
                ..Default::default()
            })
        })
        .collect();
    if trust_domains.is_empty() {
        return None;
    }
    let validator = SpiffeCertValidatorConfig { trust_domains, ..Default::default() };
    let config = Any { type_url: SpiffeCertValidatorConfig::type_url(), value: validator.encode_to_vec() };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: SPIFFE_VALIDATOR.to_owned(),
            typed_config: Some(config),
        }),
        ..Default::default()
    };
    Some(public(name, context))
}

fn public(name: &Arc<str>, context: CertificateValidationContext) -> Arc<Resource> {
    let secret = Secret { name: name.to_string(), r#type: Some(secret::Type::ValidationContext(context)) };
    Arc::new(Resource::new(TypeUrl::Secret, Arc::clone(name), secret.encode_to_vec(), Vec::new()))
}

fn valid_roots_pem(bundle: &TrustBundle, now: Timestamp) -> Option<Vec<u8>> {
    let pem = certificates_to_pem(bundle.valid_authorities(now).map(certs::Certificate::der));
    (!pem.is_empty()).then(|| pem.into_bytes())
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() }
}

/// PKCS#8 as PEM with lines of 64 characters (RFC 7468), without leaving copies behind.
fn private_key_pem(key: &SecretKey) -> Zeroizing<Vec<u8>> {
    const LABEL: &str = "PRIVATE KEY";
    let der = key.expose_secret();
    let mut text = Zeroizing::new(vec![0; der.len().div_ceil(3) * 4]);
    let length = STANDARD.encode_slice(der, &mut text).expect("base64 takes four octets for three");
    let mut pem = Zeroizing::new(Vec::with_capacity(length + length / 64 + 80));
    pem.extend_from_slice(format!("-----BEGIN {LABEL}-----\n").as_bytes());
    for line in text[..length].chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(format!("-----END {LABEL}-----\n").as_bytes());
    pem
}

#[cfg(test)]
mod tests;
