//! Whom a client of TLS 1.3 believes to be the server. Rustls leaves the signatures of a handshake to whoever judges the
//! certificate; they stand here once, and each client says only what makes a chain good.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use certs::{Certificate, Chain};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::provider;

/// A rule about chains of servers. The name or address that was dialled proves nothing here and is not asked.
pub trait Belief: fmt::Debug + Send + Sync {
    /// Judges what a server showed, its own certificate first.
    ///
    /// # Errors
    /// Why it is not believed: the handshake ends with that.
    fn judge(&self, shown: &[&[u8]], now: UnixTime) -> Result<(), rustls::Error>;
}

/// Makes a rustls verifier of a rule.
#[derive(Debug)]
pub struct Believing<B>(Arc<B>);

impl<B: Belief> Believing<B> {
    /// One that asks `belief` in each handshake.
    #[must_use]
    pub fn new(belief: Arc<B>) -> Arc<Self> {
        Arc::new(Self(belief))
    }
}

impl<B: Belief> ServerCertVerifier for Believing<B> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown: Vec<&[u8]> = std::iter::once(leaf).chain(intermediates).map(AsRef::as_ref).collect();
        self.0.judge(&shown, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Believes whoever answers, and remembers what it showed: for looking at servers from outside. What was shown proves
/// nothing but that the server has the key; whoever looks judges it afterwards.
#[derive(Debug, Default)]
pub struct Noting(OnceLock<Vec<Vec<u8>>>);

impl Noting {
    /// The chain that was shown, its octets as they came; nothing when no handshake came so far.
    #[must_use]
    pub fn ders(&self) -> &[Vec<u8>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }

    /// The server's own certificate, where one was shown that can be read.
    #[must_use]
    pub fn leaf(&self) -> Option<Certificate> {
        Certificate::from_der(self.ders().first()?).ok()
    }

    /// The chain, read.
    ///
    /// # Errors
    /// Where there is none, or one that cannot be read.
    pub fn chain(&self) -> Result<Chain, certs::ChainError> {
        Chain::from_ders(self.ders().iter().map(Vec::as_slice))
    }
}

impl Belief for Noting {
    fn judge(&self, shown: &[&[u8]], _: UnixTime) -> Result<(), rustls::Error> {
        // A handshake shows one chain.
        let _ = self.0.set(shown.iter().map(|der| der.to_vec()).collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use certs::Clock;
    use fixtures::{TestKey, TestKeyKind, World};
    use rustls::{
        ClientConfig, ClientConnection, ServerConfig, ServerConnection,
        server::NoServerSessionStorage,
        sign::{CertifiedKey, SingleCertAndKey},
    };
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::clock::SystemClock;

    #[derive(Debug)]
    struct Nobody;

    impl Belief for Nobody {
        fn judge(&self, _: &[&[u8]], _: UnixTime) -> Result<(), rustls::Error> {
            Err(rustls::Error::General("nobody is believed".into()))
        }
    }

    /// How a client's handshake ends whose server shows `ders` and signs by `key`.
    fn shakes_hands<B: Belief + 'static>(
        belief: Arc<B>,
        (ders, key): (&[Vec<u8>], PrivateKeyDer<'static>),
    ) -> Result<(), rustls::Error> {
        let chain = ders.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = provider().key_provider.load_private_key(key).unwrap();
        let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Believing::new(belief))
            .with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client =
            ClientConnection::new(Arc::new(client), ServerName::try_from("anybody").unwrap()).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_chain_is_noted_as_it_was_shown_and_believed_only_of_whoever_has_its_key() {
        let world = World::new("prod.example", SystemClock.now());
        let server = world.leaf("spiffe://prod.example/server");
        let noting = Arc::new(Noting::default());
        assert!(noting.ders().is_empty() && noting.leaf().is_none() && noting.chain().is_err());
        shakes_hands(noting.clone(), (server.ders(), server.key().rustls())).unwrap();
        assert_eq!(noting.ders(), server.ders());
        assert_eq!(noting.leaf().unwrap().der(), server.ders()[0]);
        assert_eq!(noting.chain().unwrap().leaf().der(), server.ders()[0]);

        let other = TestKey::generate(TestKeyKind::P256).rustls();
        let ended = shakes_hands(Arc::new(Noting::default()), (server.ders(), other));
        assert!(matches!(ended, Err(rustls::Error::InvalidCertificate(_))), "{ended:?}");

        let ended = shakes_hands(Arc::new(Nobody), (server.ders(), server.key().rustls()));
        assert_eq!(ended, Err(rustls::Error::General("nobody is believed".into())));
    }
}
