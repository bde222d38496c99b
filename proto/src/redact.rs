//! `Debug` for the generated messages that can hold a private key or a token. Lengths and names are shown,
//! contents never.

use std::fmt;

use prost_types::Any;

use crate::credence::v1::FinishRequest;
use crate::envoy::config::core::v3::{
    DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use crate::envoy::service::discovery::v3::{DiscoveryResponse, Resource};

struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0)
    }
}

/// An `Any` by its type and size.
struct Sized<'a>(&'a Any);

impl fmt::Debug for Sized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{} bytes]", self.0.type_url, self.0.value.len())
    }
}

impl fmt::Debug for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filename(name) => f.debug_tuple("Filename").field(name).finish(),
            Self::EnvironmentVariable(name) => f.debug_tuple("EnvironmentVariable").field(name).finish(),
            Self::InlineBytes(bytes) => f.debug_tuple("InlineBytes").field(&Hidden(bytes.len())).finish(),
            Self::InlineString(text) => f.debug_tuple("InlineString").field(&Hidden(text.len())).finish(),
        }
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource")
            .field("watched_directory", &self.watched_directory)
            .field("specifier", &self.specifier)
            .finish()
    }
}

impl fmt::Debug for ConfigType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TypedConfig(any) => f.debug_tuple("TypedConfig").field(&Sized(any)).finish(),
        }
    }
}

impl fmt::Debug for TransportSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportSocket")
            .field("name", &self.name)
            .field("config_type", &self.config_type)
            .finish()
    }
}

impl fmt::Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("resources", &self.resources.iter().map(Sized).collect::<Vec<_>>())
            .field("type_url", &self.type_url)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("aliases", &self.aliases)
            .field("version", &self.version)
            .field("resource", &self.resource.as_ref().map(Sized))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FinishRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishRequest")
            .field("method", &self.method)
            .field("tenant", &self.tenant)
            .field("join_token", &Hidden(self.join_token.len()))
            .field("csr_der", &Hidden(self.csr_der.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::envoy::extensions::transport_sockets::tls::v3::{
        GenericSecret, Secret, TlsCertificate, TlsSessionTicketKeys, secret,
    };
    use crate::envoy::service::discovery::v3::DeltaDiscoveryResponse;

    const KEY: &[u8] = b"hunter2";

    fn source() -> DataSource {
        DataSource { specifier: Some(Specifier::InlineBytes(KEY.to_vec())), ..Default::default() }
    }

    fn secret() -> Secret {
        let private_key = Some(source());
        Secret {
            name: "spiffe://prod.example.org/web".to_owned(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate { private_key, ..Default::default() })),
        }
    }

    /// Neither as text nor as the numbers that a derived `Debug` prints of bytes.
    fn check(message: &impl Debug) {
        let printed = format!("{message:?} {message:#?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.replace([' ', '\n'], "").contains("104,117,110"), "{printed}");
    }

    #[test]
    fn debug_does_not_show_keys() {
        let text = Specifier::InlineString("hunter2".to_owned());
        let any = Any::from_msg(&secret()).unwrap();
        let resource = Resource { resource: Some(any.clone()), ..Default::default() };
        check(&source());
        check(&DataSource { specifier: Some(text), ..Default::default() });
        check(&secret());
        check(&GenericSecret { secret: Some(source()), ..Default::default() });
        check(&TlsSessionTicketKeys { keys: vec![source()] });
        check(&DiscoveryResponse { resources: vec![any.clone()], ..Default::default() });
        check(&DeltaDiscoveryResponse { resources: vec![resource.clone()], ..Default::default() });
        check(&resource);
        check(&TransportSocket { config_type: Some(ConfigType::TypedConfig(any)), ..Default::default() });
        check(&FinishRequest { join_token: "hunter2".to_owned(), ..Default::default() });
    }

    #[test]
    fn debug_shows_what_is_safe() {
        let file = DataSource { specifier: Some(Specifier::Filename("/a".to_owned())), ..Default::default() };
        assert!(format!("{file:?}").contains("\"/a\""));
        assert!(format!("{:?}", source()).contains("InlineBytes([7 bytes])"));
        assert!(format!("{:?}", secret()).contains("spiffe://prod.example.org/web"));
        let any = Any::from_msg(&secret()).unwrap();
        let response = DiscoveryResponse { resources: vec![any], ..Default::default() };
        let expected = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret [";
        assert!(format!("{response:?}").contains(expected), "{response:?}");
    }
}
