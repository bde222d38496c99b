//! TLS as every listener of ours speaks it: 1.3 only, no tickets, no session cache, no early data, and a client
//! verifier that holds a chain against the SPIFFE rules before a byte of application data is read.
//!
//! A configuration is built per connection, so that what the verifier found is handed to exactly that
//! connection, and the certificate and the trust are those of this moment.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use certs::{Chain, ChainError, Clock, SecretKey, SpkiHash, Usage};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject};
use spiffe::{BlockList, Class, SpiffeId, SvidError, Trust, VerifiedSvid, verify_svid};
use thiserror::Error;
use tokio::sync::watch;

mod belief;

pub use self::belief::{Belief, Believing, Noting};
use crate::presentation::{Offer, OwnCertificate, Shown};

/// The one crypto provider of the whole binary.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Loads a chain and its key for rustls, which checks that they belong together.
///
/// # Errors
/// When they do not.
pub fn certified_key(chain: &Chain, key: &SecretKey) -> Result<CertifiedKey, rustls::Error> {
    let ders =
        chain.certificates().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()));
    CertifiedKey::from_der(ders, key, &provider())
}

/// The name of the public half of a private key in PEM, of any kind that peers have. The private half is not kept.
///
/// # Errors
/// When it is no private key, or of a kind that cannot be used.
pub fn public_half(pem: &[u8]) -> Result<SpkiHash, rustls::Error> {
    let unusable = |error: &dyn fmt::Display| rustls::Error::General(format!("no private key: {error}"));
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(&error))?;
    let key = provider().key_provider.load_private_key(key)?;
    let public = key.public_key().ok_or_else(|| unusable(&"it has no public half"))?;
    Ok(SpkiHash::of(&public))
}

/// Whom a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// Node certificates only, and none without.
    Nodes,
    /// Operator certificates; without one the call gets 401.
    Operators,
    /// Anybody: what they may do is decided by evidence, not by the handshake.
    Strangers,
}

/// Why a presented certificate was refused. Stands in log and audit; the peer gets a TLS alert.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateRefusal {
    /// Too many or too large certificates, or one that does not parse.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not an SVID of a domain that is trusted.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// An SVID, of a class that this listener does not admit.
    #[error("certificate of {id} is of class {got}, this listener admits class {wanted}")]
    WrongClass {
        /// Whose certificate it is.
        id: SpiffeId,
        /// Its class.
        got: &'static str,
        /// The class that may come in here.
        wanted: &'static str,
    },
    /// An operator has blocked the identity.
    #[error("identity {0} is blocked")]
    Blocked(SpiffeId),
}

impl CertificateRefusal {
    /// The alert says as much as the peer's own certificate says anyway, and nothing of our state.
    fn to_rustls(&self) -> rustls::Error {
        rustls::Error::InvalidCertificate(match self {
            Self::Chain(_) => CertificateError::BadEncoding,
            Self::Svid(error) => svid_alert(error),
            Self::WrongClass { .. } | Self::Blocked(_) => CertificateError::ApplicationVerificationFailure,
        })
    }
}

fn svid_alert(error: &SvidError) -> CertificateError {
    match error.rule() {
        "expired" => CertificateError::Expired,
        "not-yet-valid" => CertificateError::NotValidYet,
        "no-anchor" | "unknown-issuer" | "trust-domain" => CertificateError::UnknownIssuer,
        "bad-signature" => CertificateError::BadSignature,
        "tainted-key" | "revoked" => CertificateError::Revoked,
        _ => CertificateError::Other(OtherError(Arc::new(error.clone()))),
    }
}

/// What the verifier found on one connection.
pub(crate) type Found = Arc<OnceLock<Result<VerifiedSvid, CertificateRefusal>>>;

/// Decides who passes a handshake, from what is trusted and blocked at this moment.
#[derive(Clone)]
pub(crate) struct Gatekeeper {
    pub(crate) trust: watch::Receiver<Arc<Trust>>,
    pub(crate) blocks: watch::Receiver<Arc<BlockList>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) own: Arc<OwnCertificate>,
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatekeeper").finish_non_exhaustive()
    }
}

impl Gatekeeper {
    /// The configuration of one connection, where its verified identity will stand, and how we are shown.
    ///
    /// # Errors
    /// When there is no certificate of ours yet, or the provider lacks TLS 1.3, which ours does not.
    pub(crate) fn configure(
        &self,
        admits: Admits,
        alpn: &[&[u8]],
        shown: Shown,
    ) -> Result<(Arc<ServerConfig>, Found, Offer), rustls::Error> {
        let found = Found::default();
        let offer = self.own.offer(admits, shown);
        let offer = offer.ok_or_else(|| rustls::Error::General("no certificate of ours yet".to_owned()))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = if admits == Admits::Strangers {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_verifier(Arc::new(Verifier {
                keeper: self.clone(),
                admits,
                found: found.clone(),
            }))
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(offer.key.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // A resumed session skips the client verifier: no tickets, no cache, no early data, ever.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok((Arc::new(config), found, offer))
    }

    fn judge(&self, admits: Admits, chain: &[&[u8]]) -> Result<VerifiedSvid, CertificateRefusal> {
        let chain = Chain::from_ders(chain.iter().copied())?;
        let trust = self.trust.borrow().clone();
        let svid = verify_svid(&chain, &trust, self.clock.now(), Usage::Client)?;
        let wanted = match admits {
            Admits::Nodes => "node",
            Admits::Operators | Admits::Strangers => "operator",
        };
        let admitted = matches!(
            (admits, svid.class()),
            (Admits::Nodes, Class::Node(_)) | (Admits::Operators, Class::Operator(_))
        );
        if !admitted {
            return Err(CertificateRefusal::WrongClass {
                id: svid.id().clone(),
                got: svid.class().word(),
                wanted,
            });
        }
        if self.blocks.borrow().contains(svid.id()) {
            return Err(CertificateRefusal::Blocked(svid.id().clone()));
        }
        Ok(svid)
    }
}

#[derive(Debug)]
struct Verifier {
    keeper: Gatekeeper,
    admits: Admits,
    found: Found,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.admits == Admits::Nodes
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Trust changes while we run, and hints would tell strangers what we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<&[u8]> =
            std::iter::once(end_entity).chain(intermediates).map(|der| der.as_ref()).collect();
        let judged = self.keeper.judge(self.admits, &chain);
        let answer = match &judged {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => Err(refusal.to_rustls()),
        };
        // A handshake verifies one certificate; a second value would be a bug of the TLS library.
        let _ = self.found.set(judged);
        answer
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
