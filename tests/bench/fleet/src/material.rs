//! What a secret brings: a leaf with its key, or the roots that peers are held against.

use std::sync::Arc;

use certs::{Certificate, Chain, SecretKey, Timestamp, Usage, certificates_from_pem};
use prost::Message;
use proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use spiffe::{AuthorityId, SpiffeId, SvidError, Trust, TrustBundle, verify_svid};
use zeroize::Zeroizing;

/// What a secret is, as far as a proxy cares.
#[derive(Debug, Clone)]
pub(crate) enum Material {
    /// A certificate of ours, with its chain.
    Leaf(Leaf),
    /// Roots.
    Roots(Arc<Vec<Certificate>>),
    /// Anything else that may come by SDS.
    Other,
}

/// A leaf and what stands above it.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) chain: Chain,
    pub(crate) id: SpiffeId,
}

impl Leaf {
    /// Takes a chain, which must name an identity.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(chain: Chain) -> Result<Self, String> {
        let name = match chain.leaf().uri_names() {
            [name] => String::from_utf8_lossy(name).into_owned(),
            names => return Err(format!("leaf has {} URI names", names.len())),
        };
        let id = SpiffeId::parse(&name).map_err(|error| format!("leaf names {name}: {error}"))?;
        Ok(Self { chain, id })
    }

    /// Who signed the leaf: the authority whose certificate comes next in the chain.
    pub(crate) fn authority(&self) -> Option<AuthorityId> {
        self.chain.intermediates().first().map(|issuer| AuthorityId::of(issuer.spki_hash()))
    }

    /// Which of `roots` stands above the chain.
    pub(crate) fn root(&self, roots: &[Certificate]) -> Option<AuthorityId> {
        let last = self.chain.certificates().last()?;
        let above = roots.iter().find(|root| root.subject_key_id() == last.authority_key_id())?;
        Some(AuthorityId::of(above.spki_hash()))
    }

    /// Holds it against roots, as a peer would.
    ///
    /// # Errors
    /// Why a peer would not believe it.
    pub(crate) fn verify(&self, roots: &[Certificate], now: Timestamp) -> Result<(), SvidError> {
        let bundle = TrustBundle::new(self.id.trust_domain().clone(), roots.to_vec(), 0);
        verify_svid(&self.chain, &Trust::new(bundle), now, Usage::Any).map(|_| ())
    }
}

/// Reads a secret. A key is held against its leaf and dropped.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn read(content: &[u8]) -> Result<Material, String> {
    let secret = Secret::decode(content).map_err(|error| error.to_string())?;
    match secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            let chain = chain(&inline(certificate.certificate_chain)?)?;
            let key = Zeroizing::new(inline(certificate.private_key)?);
            let key = key_of(&key)?;
            if key.public().spki_der() != chain.leaf().spki_der() {
                return Err("the key is not the leaf's".to_owned());
            }
            Leaf::of(chain).map(Material::Leaf)
        }
        Some(secret::Type::ValidationContext(context)) => match context.trusted_ca {
            Some(trusted) => Ok(Material::Roots(Arc::new(certificates(&inline(Some(trusted))?)?))),
            None => Ok(Material::Other),
        },
        _ => Ok(Material::Other),
    }
}

/// Reads a PEM chain, leaf first.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn chain(pem: &[u8]) -> Result<Chain, String> {
    let ders = certificates_from_pem(pem).map_err(|error| error.to_string())?;
    Chain::from_ders(ders.iter().map(Vec::as_slice)).map_err(|error| error.to_string())
}

/// Reads PEM certificates.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let ders = certificates_from_pem(pem).map_err(|error| error.to_string())?;
    let parsed: Result<Vec<_>, _> = ders.iter().map(|der| Certificate::from_der(der)).collect();
    parsed.map_err(|error| error.to_string())
}

/// Reads a PKCS#8 key in PEM.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn key_of(pem: &[u8]) -> Result<SecretKey, String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    SecretKey::from_pkcs8_der(Zeroizing::new(der.secret_pkcs8_der().to_vec()))
        .map_err(|error| error.to_string())
}

fn inline(source: Option<DataSource>) -> Result<Vec<u8>, String> {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.to_vec()),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        _ => Err("the secret is not inline".to_owned()),
    }
}
