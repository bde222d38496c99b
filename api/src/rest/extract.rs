//! What comes in with a request, read strictly: bodies, parameters, If-Match.

use std::{future::poll_fn, pin::Pin};

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Query, Request},
};
use bytes::BytesMut;
use http::{HeaderMap, header, request::Parts};
use serde::{Deserialize, de::DeserializeOwned};
use spiffe::Namespace;
use uuid::Uuid;

use crate::{
    calls::{CallError, check_reason},
    problem::{FIELDS, Fault},
};

/// The longest body.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// The most items on one page.
pub const MAX_PAGE: usize = 500;
const DEFAULT_PAGE: usize = 100;

/// A body of documents: YAML, of which JSON is a part.
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = CallError;

    async fn from_request(request: Request, _: &S) -> Result<Self, CallError> {
        let (headers, bytes) = bounded(request).await?;
        accepted(&headers)?;
        utf8(bytes).map(Self)
    }
}

/// A body of named fields. One that is absent, or nothing, is refused: `{}` says that none is given, and no forgotten
/// body changes anything.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = CallError;

    async fn from_request(request: Request, _: &S) -> Result<Self, CallError> {
        let (headers, bytes) = bounded(request).await?;
        let absent =
            || CallError::Syntax(vec![fault(0, 0, FIELDS, "there is no body".into(), "send at least {}")]);
        if bytes.is_empty() {
            return Err(absent());
        }
        accepted(&headers)?;
        let text = utf8(bytes)?;
        let read = parse::<Option<T>>(&text)?.ok_or_else(absent)?;
        // Whatever is asked for: the reason for it is checked in this one place.
        if let Ok(Reasoned { reason: Some(reason) }) = serde_saphyr::from_str(&text) {
            check_reason(&reason)?;
        }
        Ok(Self(read))
    }
}

/// The reason that a request gives, whatever else it has.
#[derive(Deserialize)]
struct Reasoned {
    reason: Option<String>,
}

async fn bounded(request: Request) -> Result<(HeaderMap, Bytes), CallError> {
    let too_large = || CallError::TooLarge { limit: MAX_BODY_BYTES };
    let (parts, mut body) = request.into_parts();
    let mut kept = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame.map_err(|_| too_large())?.into_data() else { continue };
        if kept.len() + data.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        kept.extend_from_slice(&data);
    }
    Ok((parts.headers, kept.freeze()))
}

fn accepted(headers: &HeaderMap) -> Result<(), CallError> {
    let found = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let mut parts = found.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = parts
        .filter_map(|part| part.strip_prefix("charset=").map(str::to_owned))
        .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"));
    match essence.as_str() {
        "application/yaml" | "application/json" if is_utf8 => Ok(()),
        _ => Err(CallError::ContentType { found: found.chars().take(100).collect() }),
    }
}

fn utf8(bytes: Bytes) -> Result<String, CallError> {
    String::from_utf8(bytes.into()).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("byte {} is not UTF-8", at + 1);
        CallError::Syntax(vec![fault(0, 0, "syntax.utf8", message, "save the text as UTF-8")])
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, CallError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map_or((0, 0), |place| (place.line(), place.column()));
        let place = (u32::try_from(place.0).unwrap_or(0), u32::try_from(place.1).unwrap_or(0));
        let fix = "GET /api/v1/openapi.json describes the body";
        CallError::Syntax(vec![fault(place.0, place.1, FIELDS, error.to_string(), fix)])
    })
}

fn fault(line: u32, column: u32, rule: &str, message: String, fix: &str) -> Fault {
    Fault {
        file: "body".into(),
        line,
        column,
        path: String::new(),
        value: String::new(),
        rule: rule.into(),
        message,
        fix: fix.into(),
    }
}

/// Query parameters; those that the address does not know are refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = CallError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallError> {
        let Query(read) = Query::<T>::try_from_uri(&parts.uri)
            .map_err(|error| CallError::Parameter { what: "query", why: cause(&error) })?;
        if let Ok(Query(Reasoned { reason: Some(reason) })) = Query::try_from_uri(&parts.uri) {
            check_reason(&reason)?;
        }
        Ok(Self(read))
    }
}

/// The innermost text of an error: the outer ones say only that a query failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The revision in If-Match; `None` for none, and for `*`.
pub(super) struct IfMatch(pub(super) Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = CallError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallError> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or("?").trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let number = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .and_then(|inner| inner.parse().ok());
        number.map(|revision| Self(Some(revision))).ok_or_else(|| CallError::Parameter {
            what: "If-Match",
            why: format!("{text:?} is not one revision in quotes, such as \"17\""),
        })
    }
}

/// No parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Whether to do it or only to look at it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// Ending something: why, and whether to do it or only to look at it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ending {
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) reason: String,
}

/// How many items a page is to have, as it was written.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Limit(String);

/// How many items a page has.
pub(super) fn page(limit: Option<Limit>) -> Result<usize, CallError> {
    let Some(Limit(text)) = limit else { return Ok(DEFAULT_PAGE) };
    text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit)).ok_or_else(|| CallError::Parameter {
        what: "limit",
        why: format!("{text:?} is not a number from 1 to {MAX_PAGE}"),
    })
}

pub(super) fn uuid(text: &str) -> Result<Uuid, CallError> {
    text.parse().map_err(|_| CallError::Parameter { what: "id", why: format!("{text:?} is not a UUID") })
}

pub(super) fn namespace(text: Option<&str>) -> Result<Option<Namespace>, CallError> {
    let parsed = text.map(Namespace::parse).transpose();
    parsed.map_err(|error| CallError::Parameter { what: "namespace", why: error.to_string() })
}
