//! What public authorities are asked with, and shown: a request for names of servers, and the certificate of a
//! TLS-ALPN-01 challenge (RFC 8737).

use std::{net::IpAddr, time::Duration};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyUsagePurpose, SanType, SerialNumber,
    string::Ia5String,
};

use crate::{
    Certificate, IssueError, Serial, SignError, Signer, Timestamp,
    template::{RcgenSigner, date},
};

/// How long the certificate of a challenge lives. It is shown for minutes, and nobody believes it anyway.
const CHALLENGE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A name by which a server is reached: what public authorities certify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName<'a> {
    /// A DNS name, also one that begins with `*.`.
    Dns(&'a str),
    /// An address.
    Ip(IpAddr),
}

impl ServerName<'_> {
    fn to_san(&self) -> Result<SanType, IssueError> {
        match self {
            Self::Dns(name) => {
                let ia5 = Ia5String::try_from(*name).map_err(|_| IssueError::Name((*name).to_owned()))?;
                Ok(SanType::DnsName(ia5))
            }
            Self::Ip(ip) => Ok(SanType::IpAddress(*ip)),
        }
    }
}

/// A request (PKCS#10, DER) with an empty subject and these names, for the signer's key.
///
/// # Errors
/// When a name cannot stand in it, or the key does not sign.
pub fn request_for_names(names: &[ServerName<'_>], signer: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(ServerName::to_san).collect::<Result<_, _>>()?;
    let request = params.serialize_request(&RcgenSigner(signer));
    Ok(request.map_err(|error| SignError::Failed(error.to_string()))?.der().to_vec())
}

/// The self-signed certificate that answers a TLS-ALPN-01 challenge (RFC 8737 3): the one name, and `digest`, SHA-256
/// of the key authorization, in a critical extension that no other certificate has. The key should be thrown away with
/// it.
///
/// # Errors
/// When the name cannot stand in it, or the key does not sign.
pub fn challenge_certificate(
    name: &ServerName<'_>,
    digest: [u8; 32],
    signer: &dyn Signer,
    now: Timestamp,
) -> Result<Certificate, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![name.to_san()?];
    params.serial_number = Some(SerialNumber::from_slice(Serial::random().as_bytes()));
    params.not_before = date((now - Duration::from_secs(3600)).floor_secs())?;
    params.not_after = date((now + CHALLENGE_LIFE).floor_secs())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let der = params.self_signed(&RcgenSigner(signer));
    Ok(Certificate::from_der(der.map_err(|error| SignError::Failed(error.to_string()))?.der())?)
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateSigningRequestParams;
    use rustls_pki_types::CertificateSigningRequestDer;

    use super::*;
    use crate::{Csr, KeyKind, SecretKey, SoftwareSigner, SubjectAltName};

    #[test]
    fn a_request_asks_for_exactly_these_names() {
        let key = SecretKey::generate(KeyKind::P256);
        let signer = SoftwareSigner::try_new(&key).unwrap();
        let names = [
            ServerName::Dns("shop.example"),
            ServerName::Dns("*.shop.example"),
            ServerName::Ip("192.0.2.7".parse().unwrap()),
            ServerName::Ip("2001:db8::7".parse().unwrap()),
        ];
        let der = request_for_names(&names, &signer).unwrap();
        assert_eq!(Csr::from_der(&der).unwrap().public_key(), key.public());
        let read =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).unwrap();
        let expected: Vec<SanType> = names.iter().map(|name| name.to_san().unwrap()).collect();
        assert_eq!(read.params.subject_alt_names, expected);
        assert_eq!(read.params.distinguished_name, DistinguishedName::new());
        let refused = request_for_names(&[ServerName::Dns("b\u{fc}cher.example")], &signer);
        assert_eq!(refused, Err(IssueError::Name("b\u{fc}cher.example".to_owned())));
    }

    #[test]
    fn the_certificate_of_a_challenge_has_one_name_and_the_digest_in_a_critical_extension() {
        let key = SecretKey::generate(KeyKind::P256);
        let signer = SoftwareSigner::try_new(&key).unwrap();
        let now = Timestamp::from_unix_secs(1_800_000_000);
        for (name, expected) in [
            (ServerName::Dns("shop.example"), SubjectAltName::Dns("shop.example".to_owned())),
            (ServerName::Ip("192.0.2.7".parse().unwrap()), SubjectAltName::Ip("192.0.2.7".parse().unwrap())),
        ] {
            let made = challenge_certificate(&name, [7; 32], &signer, now).unwrap();
            assert_eq!(made.subject_alt_names(), [expected]);
            assert!(made.is_signed_by(&made) && !made.is_ca());
            // 1.3.6.1.5.5.7.1.31, critical, an OCTET STRING of 32 in the OCTET STRING of the extension.
            let mut extension =
                vec![0x30, 0x31, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 34, 4, 32];
            extension.extend([7; 32]);
            assert!(made.der().windows(extension.len()).any(|at| at == extension), "{:02x?}", made.der());
        }
    }
}
