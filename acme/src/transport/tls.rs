//! TLS towards an ACME server: believes whom the CA file vouches for.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use certs::Clock;
use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider, time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::{
    fs::{File, metadata},
    io::AsyncReadExt,
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{certificate_error, chain, unreachable};
use crate::{Trouble, Url};

/// The largest file of certificates: the system's has some hundred.
const MAX_FILE: u64 = 4 << 20;
/// The most certificates in it.
const MAX_ROOTS: usize = 1024;

/// Makes handshakes. Its file is read for each.
pub(super) struct Connector {
    ca_file: PathBuf,
    /// How long the file may take.
    limit: Duration,
    clock: Arc<dyn Clock>,
}

impl Connector {
    pub(super) fn new(ca_file: PathBuf, limit: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { ca_file, limit, clock }
    }

    pub(super) async fn connect(
        &self,
        url: &Url,
        config: ClientConfig,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Trouble> {
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|_| unreachable(url, format!("{:?} is no host", url.host())))?;
        let connector = TlsConnector::from(Arc::new(config));
        Box::pin(connector.connect(name, tcp)).await.map_err(|error| match certificate_error(&error) {
            Some(reason) => Trouble::NotBelieved { origin: url.origin(), reason },
            None => unreachable(url, format!("TLS: {}", chain(&error))),
        })
    }

    /// How the next handshake is made, by the file as it is now.
    ///
    /// # Errors
    /// [`Trouble::File`].
    pub(super) async fn config(&self) -> Result<ClientConfig, Trouble> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(self.roots().await?);
        if added == 0 {
            return Err(refuse(&self.ca_file, "no certificate in it can vouch for anybody"));
        }
        let time = Arc::new(Time(self.clock.clone()));
        let mut config = ClientConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    async fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Trouble> {
        let reading = timeout(self.limit, read(&self.ca_file)).await;
        let late = |_| Err(format!("could not be read within {:?}", self.limit));
        let bytes = reading.unwrap_or_else(late).map_err(|reason| refuse(&self.ca_file, &reason))?;
        let all = CertificateDer::pem_slice_iter(&bytes).take(MAX_ROOTS).collect::<Result<Vec<_>, _>>();
        all.map_err(|_| refuse(&self.ca_file, "a certificate in it does not decode"))
    }
}

/// What is no file is not opened: a pipe would wait for a writer, and a device never end.
async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let found = metadata(path).await.map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = File::open(path).await.map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE { Err(format!("has more than {MAX_FILE} octets")) } else { Ok(bytes) }
}

fn refuse(file: &Path, reason: &str) -> Trouble {
    Trouble::File { file: file.to_owned(), reason: reason.to_owned() }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
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
