//! How a token is asked for: the requests of each login, and what their answers say.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use certs::Timestamp;
use serde::Deserialize;

use crate::{
    Answer, Grant, Means, Mount, Name, Trouble, Warning,
    request::{Bearer, Request},
    secret::{Body, Secret},
};

/// Where Kubernetes puts the token of a service account.
pub const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A certificate and its key, PEM, which are read again for each login: they may have been replaced since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The key, PKCS#8, on P-256 or P-384.
    pub key: PathBuf,
}

/// A secret id of AppRole.
#[derive(Debug)]
pub enum SecretId {
    /// As it is.
    Plain(Secret),
    /// A wrapping token, in which it lies. It is opened once.
    Wrapped(Secret),
}

/// What Vault knows us by.
#[derive(Debug)]
pub enum Credentials {
    /// A role id and a secret id.
    AppRole {
        /// Where the method is mounted, below `auth/`.
        mount: Mount,
        /// The name of the role, if it is known: then Vault is asked how long the secret id is good for, where the
        /// policy allows it.
        role: Option<Name>,
        /// Which role.
        role_id: Secret,
        /// Its proof.
        secret_id: SecretId,
    },
    /// A TLS client certificate. It must have a common name: Vault refuses one with an empty subject.
    Certificate {
        /// Where the method is mounted, below `auth/`.
        mount: Mount,
        /// Which role; without, Vault tries all.
        role: Option<Name>,
        /// The certificate and its key.
        files: IdentityFiles,
    },
    /// A JWT of an issuer that Vault trusts, in a file that somebody keeps fresh.
    Jwt {
        /// Where the method is mounted, below `auth/`.
        mount: Mount,
        /// Which role; without, the default role of the mount.
        role: Option<Name>,
        /// The file.
        file: PathBuf,
    },
    /// The token of a service account, see [`SERVICE_ACCOUNT_TOKEN`].
    Kubernetes {
        /// Where the method is mounted, below `auth/`.
        mount: Mount,
        /// Which role.
        role: Name,
        /// The file.
        file: PathBuf,
    },
    /// A token that somebody gave. It cannot be replaced when it has ended.
    Token(Arc<Secret>),
}

impl Credentials {
    /// How a session goes about it.
    #[must_use]
    pub fn means(&self) -> Means {
        match self {
            Self::AppRole { secret_id: SecretId::Wrapped(_), .. } => Means::Wrapped,
            Self::AppRole { .. } | Self::Certificate { .. } | Self::Jwt { .. } | Self::Kubernetes { .. } => {
                Means::LogsIn
            }
            Self::Token(_) => Means::Token,
        }
    }

    /// The method's name.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::AppRole { .. } => "approle",
            Self::Certificate { .. } => "cert",
            Self::Jwt { .. } => "jwt",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Token(_) => "token",
        }
    }

    /// What connections present.
    #[must_use]
    pub fn identity(&self) -> Option<&IdentityFiles> {
        match self {
            Self::Certificate { files, .. } => Some(files),
            Self::AppRole { .. } | Self::Jwt { .. } | Self::Kubernetes { .. } | Self::Token(_) => None,
        }
    }

    /// The file that must be read for a login.
    pub(crate) fn token_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Jwt { file, .. } | Self::Kubernetes { file, .. } => Some(file),
            Self::AppRole { .. } | Self::Certificate { .. } | Self::Token(_) => None,
        }
    }

    /// The login, with what stood in [`Credentials::token_file`]. For a token: the question what it is.
    pub(crate) fn enter(&self, jwt: Option<&Secret>) -> Request {
        let login = |mount: &Mount, body| {
            Request::post(format!("auth/{mount}/login"), body).by(Bearer::Nobody).repeatable().fresh().own()
        };
        let named = |body: Body, role: Option<&Name>, key| match role {
            Some(role) => body.text(key, role.as_str()),
            None => body,
        };
        match self {
            Self::AppRole { mount, role_id, secret_id, .. } => {
                let body = match secret_id {
                    SecretId::Plain(secret) => Body::of_secret("secret_id", secret),
                    // It is opened first: `Means::Wrapped`.
                    SecretId::Wrapped(_) => Body::default(),
                };
                login(mount, body.secret("role_id", role_id))
            }
            Self::Certificate { mount, role, .. } => {
                login(mount, named(Body::default(), role.as_ref(), "name"))
            }
            Self::Jwt { mount, role, .. } => login(mount, named(of_jwt(jwt), role.as_ref(), "role")),
            Self::Kubernetes { mount, role, .. } => login(mount, named(of_jwt(jwt), Some(role), "role")),
            Self::Token(_) => Request::get("auth/token/lookup-self".to_owned()).own(),
        }
    }
}

fn of_jwt(jwt: Option<&Secret>) -> Body {
    jwt.map_or_else(Body::default, |jwt| Body::of_secret("jwt", jwt))
}

/// A secret id that was unwrapped.
#[derive(Debug)]
pub struct Unwrapped {
    /// The secret id.
    pub secret_id: Secret,
    /// How often it may be used, if that is limited.
    pub uses: Option<u32>,
    /// How long it lives, if it ends.
    pub ttl: Option<Duration>,
}

/// Asks what lies in a wrapping token, without opening it.
pub(crate) fn look_into(wrapped: &Secret) -> Request {
    let body = Body::of_secret("token", wrapped);
    Request::post("sys/wrapping/lookup".to_owned(), body).by(Bearer::Nobody).repeatable().own()
}

/// Opens it. It cannot be opened twice.
pub(crate) fn unwrap(wrapped: &Secret) -> Request {
    let bearer = Bearer::Own(wrapped.copy());
    Request::post("sys/wrapping/unwrap".to_owned(), Body::default()).by(bearer).own()
}

/// Asks how long the secret id in use is good for; `None` where that is not known to be of use.
pub(crate) fn look_up_secret_id(credentials: &Credentials) -> Option<Request> {
    let Credentials::AppRole { mount, role: Some(role), secret_id: SecretId::Plain(secret), .. } =
        credentials
    else {
        return None;
    };
    let path = format!("auth/{mount}/role/{role}/secret-id/lookup");
    Some(Request::post(path, Body::of_secret("secret_id", secret)).repeatable().own())
}

/// Its limits, each as a warning.
pub(crate) fn read_secret_id(answer: &Answer) -> Result<Vec<Warning>, Trouble> {
    #[derive(Deserialize)]
    struct Looked {
        #[serde(default)]
        secret_id_num_uses: u32,
        #[serde(default)]
        secret_id_ttl: u64,
        #[serde(default)]
        expiration_time: String,
    }
    let looked: Looked = answer.data()?;
    let uses = (looked.secret_id_num_uses > 0).then_some(Warning::SecretIdUses(looked.secret_id_num_uses));
    // One that does not end has the year 1 there.
    let ends = Timestamp::parse_rfc3339(&looked.expiration_time).filter(|_| looked.secret_id_ttl > 0);
    Ok(uses.into_iter().chain(ends.map(Warning::SecretIdEnds)).collect())
}

/// Renews the token of the session.
pub(crate) fn renew() -> Request {
    Request::post("auth/token/renew-self".to_owned(), Body::default()).repeatable().fresh().own()
}

/// Gives the token of the session back: it is good for nothing afterwards. Not for a token that somebody else gave.
pub(crate) fn give_back() -> Request {
    Request::post("auth/token/revoke-self".to_owned(), Body::default()).repeatable().own()
}

/// Refuses a wrapping token in which something else lies than a secret id of this mount: whoever could swap it could
/// make us log in as somebody else.
///
/// # Errors
/// See there.
pub(crate) fn check_wrapped(answer: &Answer, mount: &Mount) -> Result<(), Trouble> {
    #[derive(Deserialize)]
    struct Lies {
        creation_path: String,
    }
    let path = answer.data::<Lies>()?.creation_path;
    let inner =
        path.strip_prefix(&format!("auth/{mount}/role/")).and_then(|rest| rest.strip_suffix("/secret-id"));
    if inner.is_some_and(|role| !role.is_empty() && !role.contains('/')) {
        return Ok(());
    }
    let words = format!("the wrapping token was made by {path:?}, and not for a secret id of auth/{mount}");
    Err(Trouble::Refused { said: crate::trouble::Said::new([words.as_str()]) })
}

pub(crate) fn read_unwrapped(answer: &Answer) -> Result<Unwrapped, Trouble> {
    #[derive(Deserialize)]
    struct Opened {
        secret_id: Secret,
        #[serde(default)]
        secret_id_num_uses: u32,
        #[serde(default)]
        secret_id_ttl: u64,
    }
    let opened: Opened = answer.data()?;
    Ok(Unwrapped {
        secret_id: opened.secret_id,
        uses: (opened.secret_id_num_uses > 0).then_some(opened.secret_id_num_uses),
        ttl: (opened.secret_id_ttl > 0).then(|| Duration::from_secs(opened.secret_id_ttl)),
    })
}

impl Unwrapped {
    /// When it ends, if it was made at `now`.
    #[must_use]
    pub fn ends(&self, now: Timestamp) -> Option<Timestamp> {
        self.ttl.map(|ttl| now + ttl)
    }
}

/// What a login or a renewal answers.
pub(crate) fn read_login(answer: &Answer) -> Result<(Secret, Grant), Trouble> {
    #[derive(Deserialize)]
    struct LoggedIn {
        auth: Auth,
    }
    #[derive(Deserialize)]
    struct Auth {
        client_token: Secret,
        lease_duration: u64,
        renewable: bool,
        #[serde(default)]
        num_uses: u32,
    }
    let auth = answer.whole::<LoggedIn>()?.auth;
    Ok((auth.client_token, grant(auth.lease_duration, auth.renewable, auth.num_uses)))
}

/// What a token says of itself.
pub(crate) fn read_lookup(answer: &Answer) -> Result<Grant, Trouble> {
    #[derive(Deserialize)]
    struct Looked {
        ttl: u64,
        #[serde(default)]
        renewable: bool,
        #[serde(default)]
        num_uses: u32,
    }
    let looked: Looked = answer.data()?;
    Ok(grant(looked.ttl, looked.renewable, looked.num_uses))
}

/// Zero stands for no end, and for no limit.
fn grant(ttl: u64, is_renewable: bool, uses: u32) -> Grant {
    Grant { ttl: (ttl > 0).then(|| Duration::from_secs(ttl)), is_renewable, uses: (uses > 0).then_some(uses) }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{Reply, judge};

    fn answer(body: &str) -> Answer {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        judge(Reply { status: 200, location: None, retry_after: None, body }).unwrap()
    }

    fn sent(credentials: &Credentials, jwt: Option<&str>) -> (String, String) {
        let jwt = jwt.map(|text| Secret::of_text(text).unwrap());
        let request = credentials.enter(jwt.as_ref());
        let body = request.body.map(|body| body.to_bytes()).unwrap_or_default();
        (request.path, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn each_login_sends_what_its_method_reads() {
        let (mount, role) = (|text| Mount::parse(text).unwrap(), |text| Name::parse(text).unwrap());
        let secret = |text| Secret::of_text(text).unwrap();
        let check = |credentials: Credentials, jwt, path: &str, body: &str| {
            assert_eq!(sent(&credentials, jwt), (path.to_owned(), body.to_owned()));
        };
        let secret_id = SecretId::Plain(secret("s"));
        check(
            Credentials::AppRole { mount: mount("approle"), role: None, role_id: secret("r"), secret_id },
            None,
            "auth/approle/login",
            r#"{"secret_id":"s","role_id":"r"}"#,
        );
        let files = IdentityFiles { chain: "c".into(), key: "k".into() };
        check(
            Credentials::Certificate { mount: mount("team/cert"), role: None, files },
            None,
            "auth/team/cert/login",
            "{}",
        );
        check(
            Credentials::Jwt { mount: mount("jwt"), role: Some(role("credence")), file: "f".into() },
            Some("a.b.c\n"),
            "auth/jwt/login",
            r#"{"jwt":"a.b.c","role":"credence"}"#,
        );
        check(
            Credentials::Kubernetes { mount: mount("kubernetes"), role: role("credence"), file: "f".into() },
            Some("a.b.c"),
            "auth/kubernetes/login",
            r#"{"jwt":"a.b.c","role":"credence"}"#,
        );
        check(Credentials::Token(Arc::new(secret("t"))), None, "auth/token/lookup-self", "");
    }

    #[test]
    fn a_login_answers_a_token_and_how_long_it_lives() {
        let body = r#"{"auth":{"client_token":"hvs.x","lease_duration":900,"renewable":true,"num_uses":0}}"#;
        let (token, read) = read_login(&answer(body)).unwrap();
        assert_eq!(token.to_header().as_bytes(), b"hvs.x");
        let expected = Grant { ttl: Some(Duration::from_secs(900)), is_renewable: true, uses: None };
        assert_eq!(read, expected);
        assert!(read_login(&answer(r#"{"auth":null}"#)).is_err());
        let root = read_lookup(&answer(r#"{"data":{"ttl":0,"num_uses":0,"id":"x"}}"#)).unwrap();
        assert_eq!(root, Grant { ttl: None, is_renewable: false, uses: None });
        let used = read_lookup(&answer(r#"{"data":{"ttl":60,"renewable":true,"num_uses":3}}"#)).unwrap();
        assert_eq!(used.uses, Some(3));
    }

    #[test]
    fn only_a_secret_id_of_the_mount_is_opened() {
        let mount = Mount::parse("approle").unwrap();
        let check = |path: &str, is_good: bool| {
            let body = serde_json::json!({ "data": { "creation_path": path } }).to_string();
            assert_eq!(check_wrapped(&answer(&body), &mount).is_ok(), is_good, "{path}");
        };
        check("auth/approle/role/credence/secret-id", true);
        for path in
            ["auth/approle2/role/credence/secret-id", "auth/approle/role//secret-id", "sys/wrapping/wrap"]
        {
            check(path, false);
        }
        check("auth/approle/role/a/b/secret-id", false);
        let looked = |uses: u32, ttl: u32, ends: &str| {
            let data = serde_json::json!({ "secret_id_num_uses": uses, "secret_id_ttl": ttl, "expiration_time": ends });
            read_secret_id(&answer(&serde_json::json!({ "data": data }).to_string()))
        };
        let ends = Timestamp::parse_rfc3339("2026-11-21T11:00:00Z").unwrap();
        let expected = vec![Warning::SecretIdUses(4), Warning::SecretIdEnds(ends)];
        assert_eq!(looked(4, 3600, "2026-11-21T11:00:00Z"), Ok(expected));
        assert_eq!(looked(0, 0, "0001-01-01T00:00:00Z"), Ok(Vec::new()));
        let opened = r#"{"data":{"secret_id":"s","secret_id_num_uses":5,"secret_id_ttl":0}}"#;
        let opened = read_unwrapped(&answer(opened)).unwrap();
        assert_eq!((opened.uses, opened.ttl), (Some(5), None));
    }
}
