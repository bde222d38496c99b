//! What is asked of Vault's PKI engine: signatures under an issuer that is pinned by its id, and what issuers there
//! are.
//!
//! `sign-verbatim` is never called, `not_after` never sent (it goes beyond what the role allows). What comes back is
//! held against what was asked in [`check`].

pub mod check;
mod role;

use std::{collections::BTreeMap, time::Duration};

use certs::{Certificate, certificates_from_pem, certificates_to_pem, request_to_pem};
use serde::Deserialize;

pub use self::role::{Role, RoleFinding};
use crate::{Answer, Mount, Name, Request, Trouble, request::Bearer, secret::Body};

/// The most issuers of a mount that are read.
pub const MAX_ISSUERS: usize = 256;

/// An issuer in a mount. By its id: a name can be given to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Where the engine is mounted.
    pub mount: Mount,
    /// The issuer's id.
    pub id: Name,
}

/// What Vault signed: as it came, judged by nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate.
    pub certificate: Certificate,
    /// What Vault gave with it to reach the root: `ca_chain`, or the issuer alone.
    pub above: Vec<Certificate>,
    /// The lease that it hangs on; empty where the role makes none.
    pub lease_id: String,
    /// What Vault warns of, such as a lifetime that it cut.
    pub warnings: Vec<String>,
}

impl Issuer {
    /// Asks for a leaf with one URI, for the key that signed the request `csr` (DER).
    #[must_use]
    pub fn sign(&self, role: &Name, csr: &[u8], uri: &str, lifetime: Duration) -> Request {
        let body = Body::default()
            .text("csr", &request_to_pem(csr))
            .text("uri_sans", uri)
            .text("ttl", &seconds(lifetime))
            .text("format", "pem");
        Request::post(format!("{}/issuer/{}/sign/{role}", self.mount, self.id), body)
    }

    /// Asks for an authority below this one, which may sign leaves only, for the key that signed the request `csr`
    /// (DER). Its key usages are Vault's own choice: sending them replaces those that an authority needs.
    #[must_use]
    pub fn sign_intermediate(&self, csr: &[u8], common_name: &str, uri: &str, lifetime: Duration) -> Request {
        let body = Body::default()
            .text("csr", &request_to_pem(csr))
            .text("common_name", common_name)
            .json("exclude_cn_from_sans", &true)
            .text("uri_sans", uri)
            .text("ttl", &seconds(lifetime))
            .json("max_path_length", &0)
            .text("format", "pem");
        Request::post(format!("{}/issuer/{}/sign-intermediate", self.mount, self.id), body)
    }

    /// Asks for its certificate and chain. Anybody may.
    #[must_use]
    pub fn read(&self) -> Request {
        read_reference(&self.mount, &self.id)
    }
}

/// As [`Issuer::read`], of what the mount signs with by default: reveals its id.
#[must_use]
pub fn read_default(mount: &Mount) -> Request {
    Request::get(format!("{mount}/issuer/default/json")).by(Bearer::Nobody).own()
}

fn read_reference(mount: &Mount, reference: &Name) -> Request {
    Request::get(format!("{mount}/issuer/{reference}/json")).by(Bearer::Nobody).own()
}

/// Asks which issuers a mount has. Anybody may.
#[must_use]
pub fn list(mount: &Mount) -> Request {
    Request::list(format!("{mount}/issuers")).by(Bearer::Nobody).own()
}

/// Asks what a role allows.
#[must_use]
pub fn read_role(mount: &Mount, role: &Name) -> Request {
    Request::get(format!("{mount}/roles/{role}"))
}

/// Asks to revoke a certificate, by its text: Vault need not have kept it.
#[must_use]
pub fn revoke(mount: &Mount, certificate: &Certificate) -> Request {
    let body = Body::default().text("certificate", &certificates_to_pem([certificate.der()]));
    Request::post(format!("{mount}/revoke"), body).repeatable()
}

fn seconds(lifetime: Duration) -> String {
    format!("{}s", lifetime.as_secs())
}

/// Reads the answer to [`Issuer::sign`] and [`Issuer::sign_intermediate`].
///
/// # Errors
/// When it is no certificate with its chain.
pub fn read_signed(answer: &Answer) -> Result<Signed, Trouble> {
    #[derive(Deserialize)]
    struct Data {
        certificate: String,
        issuing_ca: String,
        #[serde(default)]
        ca_chain: Option<Vec<String>>,
    }
    let data: Data = answer.data()?;
    let chain = data.ca_chain.filter(|chain| !chain.is_empty()).unwrap_or_else(|| vec![data.issuing_ca]);
    let mut certificate = certificates(&data.certificate)?;
    if certificate.len() != 1 {
        return Err(shape("several certificates where one was asked for"));
    }
    let above = chain.iter().map(|text| certificates(text)).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Signed {
        certificate: certificate.remove(0),
        above,
        lease_id: answer.lease_id()?.chars().take(128).collect(),
        warnings: answer.warnings(),
    })
}

/// An issuer as a mount lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: Name,
    /// Its name, which may be empty and may change.
    pub name: String,
    /// Whether it signs where none is named. Only told to who may read `issuers` as themselves; `false` else.
    pub is_default: bool,
}

/// Reads the answer to [`list`].
///
/// # Errors
/// When it is of another shape.
pub fn read_list(answer: &Answer) -> Result<Vec<Listed>, Trouble> {
    #[derive(Deserialize)]
    struct Data {
        key_info: BTreeMap<String, Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        issuer_name: String,
        #[serde(default)]
        is_default: bool,
    }
    let data: Data = answer.data()?;
    if data.key_info.len() > MAX_ISSUERS {
        return Err(shape("more issuers than are read"));
    }
    let one = |(id, info): (String, Info)| {
        let id = Name::parse(&id).map_err(|_| shape("an issuer's id is no name"))?;
        Ok(Listed { id, name: info.issuer_name.chars().take(128).collect(), is_default: info.is_default })
    };
    data.key_info.into_iter().map(one).collect()
}

/// An issuer's certificate and what stands above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerChain {
    /// Its id.
    pub id: Name,
    /// Its name, which may be empty.
    pub name: String,
    /// Its certificate.
    pub certificate: Certificate,
    /// The certificates above it, nearest first, as far as the mount has them. Often without the root.
    pub above: Vec<Certificate>,
    /// Whether Vault has revoked it.
    pub is_revoked: bool,
}

impl IssuerChain {
    /// The root, if the chain ends with one: a certificate signed by itself.
    #[must_use]
    pub fn root(&self) -> Option<&Certificate> {
        let last = self.above.last().unwrap_or(&self.certificate);
        is_root(last).then_some(last)
    }
}

/// Whether it is signed by itself.
pub(crate) fn is_root(certificate: &Certificate) -> bool {
    certificate.subject() == certificate.issuer() && certificate.is_signed_by(certificate)
}

/// Reads the answer to [`Issuer::read`] and [`read_default`].
///
/// # Errors
/// When it is of another shape.
pub fn read_issuer(answer: &Answer) -> Result<IssuerChain, Trouble> {
    #[derive(Deserialize)]
    struct Data {
        issuer_id: String,
        #[serde(default)]
        issuer_name: String,
        certificate: String,
        #[serde(default)]
        ca_chain: Vec<String>,
        #[serde(default)]
        revocation_time: u64,
        #[serde(default)]
        revoked: bool,
    }
    let data: Data = answer.data()?;
    let certificate = certificates(&data.certificate)?;
    let chain = data.ca_chain.iter().map(|text| certificates(text)).collect::<Result<Vec<_>, _>>()?.concat();
    let certificate = certificate.into_iter().next().ok_or_else(|| shape("no certificate"))?;
    // Vault's chain begins with the issuer itself.
    let above = chain.into_iter().filter(|one| *one != certificate).collect();
    Ok(IssuerChain {
        id: Name::parse(&data.issuer_id).map_err(|_| shape("an issuer's id is no name"))?,
        name: data.issuer_name.chars().take(128).collect(),
        certificate,
        above,
        is_revoked: data.revoked || data.revocation_time > 0,
    })
}

fn certificates(pem: &str) -> Result<Vec<Certificate>, Trouble> {
    let ders = certificates_from_pem(pem.as_bytes()).map_err(|error| shape(&error.to_string()))?;
    ders.iter().map(|der| Certificate::from_der(der).map_err(|error| shape(&error.to_string()))).collect()
}

fn shape(reason: &str) -> Trouble {
    Trouble::NotVault { status: 200, reason: reason.to_owned() }
}
