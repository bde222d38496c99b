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
