//! What an Envoy says of itself on its admin page: typed where we rely on it, JSON where people look.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use certs::Timestamp;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use super::EnvoyVersion;

/// The largest answer that is read: a configuration dump of a large proxy.
const MAX_BYTES: usize = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an Envoy could not be read.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Nobody answers.
    #[error("admin page {address} does not answer: {what}")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// Why there is no answer.
        what: String,
    },
    /// It answers, but not with what was asked for.
    #[error("admin page answers {status} to {path}: {body}")]
    Status {
        /// The path.
        path: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the answer.
        body: String,
    },
    /// The answer is not of the expected form.
    #[error("admin page answers {path} in an unexpected form: {what}")]
    Form {
        /// The path.
        path: String,
        /// What is wrong with it.
        what: String,
    },
}

/// One certificate that an Envoy has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its serial number, as lower case hexadecimal digits.
    pub serial: String,
    /// Its URI names.
    pub uris: Vec<String>,
    /// When it ends.
    pub not_after: Option<Timestamp>,
    /// The file it was read from, or `<inline>`.
    pub path: String,
    /// Whether it is a trust anchor and not the proxy's own.
    pub is_anchor: bool,
}

/// A reader of one Envoy's admin page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// The page at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The page whose address Envoy wrote into `file` (`--admin-address-path`); `None` until it has.
    #[must_use]
    pub fn from_file(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        text.trim().parse().ok().map(Self::new)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether Envoy has its first configuration and takes traffic.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn is_ready(&self) -> Result<bool, AdminError> {
        let (status, _) = self.request("/ready").await?;
        Ok(status == StatusCode::OK)
    }

    /// Counters and gauges whose names match `filter`, a regular expression; all of them if it is empty.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>, AdminError> {
        let path = format!("/stats?format=json&filter={}", percent_encode(filter));
        let answer = self.json(&path).await?;
        let entries = answer["stats"].as_array().ok_or_else(|| form(&path, "no stats"))?;
        Ok(entries
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?.to_owned(), entry["value"].as_u64()?)))
            .collect())
    }

    /// Every certificate that Envoy has loaded.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn certificates(&self) -> Result<Vec<CertificateInfo>, AdminError> {
        let path = "/certs";
        let answer = self.json(path).await?;
        let groups = answer["certificates"].as_array().ok_or_else(|| form(path, "no certificates"))?;
        let mut found = Vec::new();
        for group in groups {
            for (kind, is_anchor) in [("cert_chain", false), ("ca_cert", true)] {
                let entries = group[kind].as_array().into_iter().flatten();
                found.extend(entries.map(|entry| certificate(entry, is_anchor)));
            }
        }
        Ok(found)
    }

    /// Envoy's configuration, endpoints included.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn config_dump(&self) -> Result<Value, AdminError> {
        self.json("/config_dump?include_eds=on").await
    }

    /// Its clusters and their endpoints.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn clusters(&self) -> Result<Value, AdminError> {
        self.json("/clusters?format=json").await
    }

    /// Its listeners: name to local address.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn listeners(&self) -> Result<BTreeMap<String, SocketAddr>, AdminError> {
        let path = "/listeners?format=json";
        let answer = self.json(path).await?;
        let entries = answer["listener_statuses"].as_array().into_iter().flatten();
        Ok(entries
            .filter_map(|entry| {
                let socket = &entry["local_address"]["socket_address"];
                let address = socket["address"].as_str()?.parse().ok()?;
                let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
                Some((entry["name"].as_str()?.to_owned(), SocketAddr::new(address, port)))
            })
            .collect())
    }

    /// Its version.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<EnvoyVersion, AdminError> {
        let path = "/server_info";
        let answer = self.json(path).await?;
        let text = answer["version"].as_str().ok_or_else(|| form(path, "no version"))?;
        EnvoyVersion::parse(text).ok_or_else(|| form(path, "a version of an unknown form"))
    }

    /// Any page as JSON.
    ///
    /// # Errors
    /// When it does not answer, or not with 200 and JSON.
    pub async fn json(&self, path: &str) -> Result<Value, AdminError> {
        let (status, body) = self.request(path).await?;
        if status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body).chars().take(256).collect();
            return Err(AdminError::Status { path: path.to_owned(), status, body });
        }
        serde_json::from_slice(&body).map_err(|error| form(path, &error.to_string()))
    }

    async fn request(&self, path: &str) -> Result<(StatusCode, Bytes), AdminError> {
        let unreachable = |what: String| AdminError::Unreachable { address: self.address, what };
        timeout(TIMEOUT, self.exchange(path))
            .await
            .map_err(|_| unreachable("it takes too long".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))
    }

    async fn exchange(
        &self,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let tcp = TcpStream::connect(self.address).await?;
        let (mut send, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        let request = http::Request::get(path)
            .header(http::header::HOST, self.address.to_string())
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = send.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            ended = connection => {
                ended?;
                answer.await
            }
        }
    }
}

fn certificate(entry: &Value, is_anchor: bool) -> CertificateInfo {
    let names = entry["subject_alt_names"].as_array().into_iter().flatten();
    CertificateInfo {
        serial: entry["serial_number"].as_str().unwrap_or_default().to_lowercase(),
        uris: names.filter_map(|name| name["uri"].as_str().map(str::to_owned)).collect(),
        not_after: entry["expiration_time"].as_str().and_then(Timestamp::parse_rfc3339),
        path: entry["path"].as_str().unwrap_or_default().to_owned(),
        is_anchor,
    }
}

fn form(path: &str, what: &str) -> AdminError {
    AdminError::Form { path: path.to_owned(), what: what.to_owned() }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|octet| match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(octet).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
