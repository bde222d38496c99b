//! TLS 1.3 towards Vault: believes whom the CA file vouches for, and presents a certificate where that is the login.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use certs::{Chain, Clock, KeyKind, SecretKey, Signer, SoftwareSigner, certificates_from_pem};
use rustls::{
    ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    sign::{CertifiedKey, SigningKey},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use super::{certificate_error, chain, lock};
use crate::{Address, IdentityFiles, Trouble, file};

/// The largest file of certificates or keys.
const MAX_FILE: usize = 1 << 20;

/// Makes handshakes. Its files are read for each.
pub(super) struct Connector {
    ca_file: PathBuf,
    /// How long each file may take.
    limit: Duration,
    clock: Arc<dyn Clock>,
    identity: Mutex<Option<IdentityFiles>>,
}

impl Connector {
    pub(super) fn new(ca_file: PathBuf, limit: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { ca_file, limit, clock, identity: Mutex::default() }
    }

    pub(super) fn present(&self, identity: Option<IdentityFiles>) {
        *lock(&self.identity) = identity;
    }

    pub(super) async fn connect(
        &self,
        address: &Address,
        config: ClientConfig,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Trouble> {
        let unreachable = |reason: String| Trouble::Unreachable { address: address.clone(), reason };
        let name = ServerName::try_from(address.host().to_owned())
            .map_err(|_| unreachable(format!("{:?} is no host", address.host())))?;
        let connector = TlsConnector::from(Arc::new(config));
        Box::pin(connector.connect(name, tcp)).await.map_err(|error| match certificate_error(&error) {
            Some(reason) => Trouble::NotBelieved { address: address.clone(), reason },
            None => unreachable(format!("TLS: {}", chain(&error))),
        })
    }

    /// How the next handshake is made, by the files as they are now.
    ///
    /// # Errors
    /// [`Trouble::File`].
    pub(super) async fn config(&self) -> Result<ClientConfig, Trouble> {
        let roots = roots(&self.ca_file, self.limit).await?;
        let time = Arc::new(Time(self.clock.clone()));
        let builder = ClientConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots);
        let files = lock(&self.identity).clone();
        let mut config = match files {
            Some(files) => builder.with_client_cert_resolver(Arc::new(identity(&files, self.limit).await?)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

fn refuse(file: &Path, reason: impl fmt::Display) -> Trouble {
    Trouble::File { file: file.to_owned(), reason: reason.to_string() }
}

async fn read(path: &Path, limit: Duration) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let bytes = file::read(path, MAX_FILE + 1, limit).await?;
    if bytes.len() > MAX_FILE {
        return Err(refuse(path, format_args!("has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

async fn roots(file: &Path, limit: Duration) -> Result<RootCertStore, Trouble> {
    let ders = certificates_from_pem(&read(file, limit).await?).map_err(|error| refuse(file, error))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
    if added == 0 {
        return Err(refuse(file, "no certificate in it can vouch for anybody"));
    }
    Ok(roots)
}

async fn identity(files: &IdentityFiles, limit: Duration) -> Result<Identity, Trouble> {
    let pem = read(&files.chain, limit).await?;
    let ders = certificates_from_pem(&pem).map_err(|error| refuse(&files.chain, error))?;
    let chain =
        Chain::from_ders(ders.iter().map(Vec::as_slice)).map_err(|error| refuse(&files.chain, error))?;
    let pem = read(&files.key, limit).await?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map(Zeroizing::new)
        .map_err(|_| refuse(&files.key, "no private key in PKCS#8 (`BEGIN PRIVATE KEY`)"))?;
    let octets = Zeroizing::new(der.secret_pkcs8_der().to_vec());
    let key = SecretKey::from_pkcs8_der(octets).map_err(|error| refuse(&files.key, error))?;
    if key.public().spki_der() != chain.leaf().spki_der() {
        return Err(refuse(&files.key, format_args!("is not the key of {}", files.chain.display())));
    }
    let signer = SoftwareSigner::try_new(&key).map_err(|error| refuse(&files.key, error))?;
    let ders = chain.certificates().map(|one| CertificateDer::from(one.der().to_vec())).collect();
    Ok(Identity(Arc::new(CertifiedKey::new(ders, Arc::new(ClientKey(Arc::new(signer)))))))
}

/// Time as the one clock of the process shows it.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().unix_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

/// Our certificate; its key stays where it is, TLS signs through it.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct ClientKey(Arc<SoftwareSigner>);

impl ClientKey {
    fn scheme(&self) -> SignatureScheme {
        match self.0.public().kind() {
            KeyKind::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyKind::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

impl SigningKey for ClientKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let signer = || Box::new(Self(self.0.clone())) as Box<dyn rustls::sign::Signer>;
        offered.contains(&self.scheme()).then(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for ClientKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        Self::scheme(self)
    }
}
