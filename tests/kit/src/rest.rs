//! The management API as the operator of a world calls it: faster than a process per call.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::Value;

use crate::{Identity, Outcome, https};

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The content type.
    pub content_type: String,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The last word of the problem's type; empty when it is no problem document.
    #[must_use]
    pub fn problem(&self) -> String {
        if self.content_type != "application/problem+json" {
            return String::new();
        }
        let json = self.json();
        json["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default().to_owned()
    }
}

/// A caller of port 8080.
#[derive(Debug, Clone)]
pub struct Rest {
    address: SocketAddr,
    identity: Option<Identity>,
}

impl Rest {
    /// Calls `address` with this certificate, or without.
    #[must_use]
    pub fn new(address: SocketAddr, identity: Option<Identity>) -> Self {
        Self { address, identity }
    }

    /// Any call.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Outcome> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body.into())).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (status, content_type, text) = https(self.address, self.identity.as_ref(), request).await?;
        Ok(Answer { status: status.as_u16(), content_type, text })
    }

    /// `GET path`, which must answer 200 and JSON.
    ///
    /// # Panics
    /// When it does not.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, "", Bytes::new()).await;
        let answer = answer.unwrap_or_else(|outcome| panic!("GET {path}: {outcome:?}"));
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text);
        answer.json()
    }

    /// `POST path` with JSON, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.call(Method::POST, path, "application/json", body.to_string()).await;
        let answer = answer.unwrap_or_else(|outcome| panic!("POST {path}: {outcome:?}"));
        assert!((200..300).contains(&answer.status), "POST {path}: {} {}", answer.status, answer.text);
        answer.json()
    }

    /// Applies documents, which must be accepted.
    ///
    /// # Panics
    /// When they are not.
    pub async fn apply(&self, text: &str) -> Value {
        let path = "/api/v1/apply";
        let answer = self.call(Method::POST, path, "application/yaml", text.to_owned()).await;
        let answer = answer.unwrap_or_else(|outcome| panic!("POST {path}: {outcome:?}"));
        assert_eq!(answer.status, 200, "POST {path}: {}", answer.text);
        answer.json()
    }
}
