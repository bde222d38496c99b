//! What a role allows, and what of it is no good (PURE).

use serde::Deserialize;

use crate::{Answer, Trouble};

/// A role, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Role {
    use_csr_sans: bool,
    use_csr_common_name: bool,
    require_cn: bool,
    #[serde(default)]
    allowed_uri_sans: Vec<String>,
    key_type: String,
    key_bits: u32,
    generate_lease: Option<bool>,
    no_store: bool,
    server_flag: bool,
    client_flag: bool,
    #[serde(default)]
    key_usage: Vec<String>,
    #[serde(default)]
    not_after: String,
    #[serde(default)]
    basic_constraints_valid_for_non_ca: bool,
    #[serde(default)]
    max_ttl: u64,
}

/// Something about a role, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFinding {
    /// Whether certificates cannot be had, or not be trusted, as it is. Else it is better changed.
    pub is_fatal: bool,
    /// What the matter is.
    pub what: String,
    /// What to write, as `vault write MOUNT/roles/ROLE` takes it.
    pub instead: String,
}

impl Role {
    /// Reads the answer to [`read_role`](super::read_role).
    ///
    /// # Errors
    /// When it is of another shape.
    pub fn read(answer: &Answer) -> Result<Self, Trouble> {
        answer.data()
    }

    /// The longest life that it allows, in seconds; 0 stands for that of the mount.
    #[must_use]
    pub fn max_ttl_secs(&self) -> u64 {
        self.max_ttl
    }

    /// What is to be changed for leaves of this trust domain.
    #[must_use]
    pub fn findings(&self, trust_domain: &str) -> Vec<RoleFinding> {
        let glob = format!("spiffe://{trust_domain}/*");
        let mut found = Vec::new();
        let mut say = |is_wrong: bool, is_fatal, what: String, instead: String| {
            if is_wrong {
                found.push(RoleFinding { is_fatal, what, instead });
            }
        };
        let (yes, no) = (|name: &str| format!("{name}=true"), |name: &str| format!("{name}=false"));
        let words = "the request names itself: whoever makes it chooses its identity";
        say(self.use_csr_sans, true, words.to_owned(), no("use_csr_sans"));
        let words = "the request chooses its common name".to_owned();
        say(self.use_csr_common_name, false, words, no("use_csr_common_name"));
        say(
            self.require_cn,
            true,
            "it wants a common name, and leaves have none".to_owned(),
            no("require_cn"),
        );
        let others: Vec<&String> = self.allowed_uri_sans.iter().filter(|one| **one != glob).collect();
        let is_allowed = self.allowed_uri_sans.contains(&glob);
        let words = format!("it does not allow the names of {trust_domain}");
        say(!is_allowed, true, words, format!("allowed_uri_sans={glob}"));
        let words = format!("it also allows {others:?}");
        say(!others.is_empty(), false, words, format!("allowed_uri_sans={glob}"));
        let is_ec = self.key_type == "any" || (self.key_type == "ec" && self.key_bits <= 256);
        let words = format!("it takes keys of type {} {} only", self.key_type, self.key_bits);
        say(!is_ec, true, words, "key_type=ec key_bits=256".to_owned());
        let words = "certificates are revoked when the token ends".to_owned();
        say(self.generate_lease == Some(true), true, words, no("generate_lease"));
        let words = "Vault keeps every certificate: its storage grows".to_owned();
        say(!self.no_store, false, words, yes("no_store"));
        let words = "leaves would not do as a server".to_owned();
        say(!self.server_flag, true, words, yes("server_flag"));
        let words = "leaves would not do as a client".to_owned();
        say(!self.client_flag, true, words, yes("client_flag"));
        let words = format!("leaves may do {:?}, and need DigitalSignature alone", self.key_usage);
        say(self.key_usage != ["DigitalSignature"], true, words, "key_usage=DigitalSignature".to_owned());
        let words = format!("it sets not_after={}, and Vault takes no lifetime beside that", self.not_after);
        say(!self.not_after.is_empty(), true, words, "not_after=\"\"".to_owned());
        let words = "leaves do not say that they are no authorities".to_owned();
        let instead = yes("basic_constraints_valid_for_non_ca");
        say(!self.basic_constraints_valid_for_non_ca, false, words, instead);
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zeroize::Zeroizing;

    use super::*;
    use crate::{Reply, judge};

    fn role(change: impl FnOnce(&mut Value)) -> Role {
        let mut data = json!({
            "use_csr_sans": false, "use_csr_common_name": false, "require_cn": false,
            "allowed_uri_sans": ["spiffe://td/*"], "key_type": "ec", "key_bits": 256, "generate_lease": false,
            "no_store": true, "server_flag": true, "client_flag": true, "key_usage": ["DigitalSignature"],
            "not_after": "", "basic_constraints_valid_for_non_ca": true, "max_ttl": 86400, "new_field": 1,
        });
        change(&mut data);
        let body = Zeroizing::new(json!({ "data": data }).to_string().into_bytes());
        let answer = judge(Reply { status: 200, location: None, retry_after: None, body }).unwrap();
        Role::read(&answer).unwrap()
    }

    #[test]
    fn each_flaw_of_a_role_is_named_with_what_to_write() {
        assert_eq!(role(|_| {}).findings("td"), []);
        assert_eq!(role(|_| {}).max_ttl_secs(), 86400);
        let check = |name: &str, value: Value, is_fatal: bool, instead: &str| {
            let found = role(|data| data[name] = value.clone()).findings("td");
            let seen: Vec<_> = found.iter().map(|one| (one.is_fatal, one.instead.as_str())).collect();
            assert_eq!(seen, [(is_fatal, instead)], "{name}={value}");
        };
        check("use_csr_sans", true.into(), true, "use_csr_sans=false");
        check("use_csr_common_name", true.into(), false, "use_csr_common_name=false");
        check("require_cn", true.into(), true, "require_cn=false");
        check("allowed_uri_sans", json!(["spiffe://td/*", "*"]), false, "allowed_uri_sans=spiffe://td/*");
        check("allowed_uri_sans", json!([]), true, "allowed_uri_sans=spiffe://td/*");
        check("key_type", "rsa".into(), true, "key_type=ec key_bits=256");
        check("key_bits", 384.into(), true, "key_type=ec key_bits=256");
        check("generate_lease", true.into(), true, "generate_lease=false");
        check("no_store", false.into(), false, "no_store=true");
        check("server_flag", false.into(), true, "server_flag=true");
        check("client_flag", false.into(), true, "client_flag=true");
        check("key_usage", json!(["KeyAgreement"]), true, "key_usage=DigitalSignature");
        check("not_after", "2030-01-01T00:00:00Z".into(), true, "not_after=\"\"");
        let name = "basic_constraints_valid_for_non_ca";
        check(name, false.into(), false, "basic_constraints_valid_for_non_ca=true");
    }
}
