//! Envoy's Secret messages, encoded at once into opaque resources. The only file of this crate that reads a key.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{Chain, Imported, KeyForm, SecretKey, Timestamp, certificates_to_pem, crls_to_pem};
use prost::{Message, Name};
use prost_types::Any;
use proto::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, TlsCertificate,
        secret, spiffe_cert_validator_config,
    },
};
use spiffe::{RevocationLists, Trust, TrustBundle};
use xds::{Resource, TypeUrl, Version};
use zeroize::Zeroizing;

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// A secret as an encoded `TlsCertificate` or `GenericSecret`, ready to be sent under any name. Zeroed when dropped.
pub(crate) struct Material {
    /// The field of `Secret` that it stands in.
    field: u32,
    encoded: Zeroizing<Vec<u8>>,
}

/// `Secret.tls_certificate`.
const TLS_CERTIFICATE: u32 = 2;
/// `Secret.generic_secret`.
const GENERIC_SECRET: u32 = 5;

impl Material {
    /// Encodes `key` with `chain`; the key itself is dropped here.
    pub(crate) fn encode(chain: &Chain, key: SecretKey) -> Self {
        let pem = private_key_pem(KeyForm::Pkcs8.label(), key.expose_secret());
        drop(key);
        Self::tls(chain, pem)
    }

    /// Encodes what was imported, which is dropped here.
    pub(crate) fn of_imported(value: Imported) -> Self {
        match value {
            Imported::Tls { chain, form, key } => {
                let pem = private_key_pem(form.label(), key.expose_secret());
                drop(key);
                Self::tls(&chain, pem)
            }
            Imported::Generic(bytes) => {
                let message = GenericSecret {
                    secret: Some(inline(bytes.expose_secret().to_vec())),
                    ..Default::default()
                };
                drop(bytes);
                let encoded = encode(&message);
                wipe(message.secret);
                Self { field: GENERIC_SECRET, encoded }
            }
        }
    }

    fn tls(chain: &Chain, mut pem: Zeroizing<Vec<u8>>) -> Self {
        let message = TlsCertificate {
            certificate_chain: Some(inline(chain.to_pem().into_bytes())),
            private_key: Some(inline(std::mem::take(&mut *pem))),
            ..Default::default()
        };
        let encoded = encode(&message);
        wipe(message.private_key);
        Self { field: TLS_CERTIFICATE, encoded }
    }

    /// As the secret of that name. The version is keyed, so that nobody can test guesses against it.
    pub(crate) fn to_resource(&self, name: &Arc<str>, version_key: &[u8; 32]) -> Arc<Resource> {
        const NAME_AND_HEADERS: usize = 32;
        let name_text = name.to_string();
        let mut content = Vec::with_capacity(name_text.len() + self.encoded.len() + NAME_AND_HEADERS);
        prost::encoding::string::encode(1, &name_text, &mut content);
        prost::encoding::bytes::encode(self.field, &*self.encoded, &mut content);
        let version = Version::keyed(version_key, &content);
        Arc::new(Resource::with_version(TypeUrl::Secret, Arc::clone(name), version, content, Vec::new()))
    }
}

/// The roots of `bundle` that are valid now, as a validation context of that name. `None` without any: an empty
/// context would be refused by Envoy, and must never look like trust in nobody.
///
/// With `lists`, the issuer of each leaf needs one of them, and no other authority does: roots sign no leaves, and
/// Envoy would ask for theirs too.
pub(crate) fn context(
    name: &Arc<str>,
    bundle: &TrustBundle,
    lists: Option<&RevocationLists>,
    now: Timestamp,
) -> Option<Arc<Resource>> {
    let crl = lists.map(|lists| inline(crls_to_pem(lists.all().iter().map(|list| &*list.crl)).into_bytes()));
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(valid_roots_pem(bundle, now)?)),
        only_verify_leaf_cert_crl: crl.is_some(),
        crl,
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

/// Sized before it is filled: a buffer that grew would leave the secret in the pieces it left behind.
fn encode(message: &impl Message) -> Zeroizing<Vec<u8>> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
    message.encode(&mut *encoded).expect("a buffer of that length holds it");
    encoded
}

fn wipe(source: Option<DataSource>) {
    if let Some(Specifier::InlineBytes(bytes)) = source.and_then(|source| source.specifier) {
        drop(Zeroizing::new(bytes));
    }
}

/// A key as PEM with lines of 64 characters (RFC 7468), without leaving copies behind.
fn private_key_pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(vec![0; der.len().div_ceil(3) * 4]);
    let length = STANDARD.encode_slice(der, &mut text).expect("base64 takes four octets for three");
    let mut pem = Zeroizing::new(Vec::with_capacity(length + length / 64 + 80));
    pem.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in text[..length].chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    pem
}

#[cfg(test)]
mod tests;
