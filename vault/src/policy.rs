//! What the token needs, and nothing else: the policy as Vault reads it, and the same as a value that the breadth of a
//! token is held against.

use std::fmt::Write;

use crate::{Mount, Name};

/// One path of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which path.
    pub path: String,
    /// What may be done there.
    pub capabilities: Vec<&'static str>,
    /// The parameters that must be sent.
    pub required: Vec<&'static str>,
    /// The parameters that may be sent, with the values that they may have (none: any). Empty: any parameter.
    pub allowed: Vec<(&'static str, Vec<String>)>,
    /// What stands before and after one name in paths where the same may be done, and need not be.
    pub alike: Option<(String, String)>,
}

impl Rule {
    /// Whether it is about this path, or about one that it allows as well. The default issuer has no id: it may become
    /// another.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let is_alike = |(before, after): &(String, String)| {
            let name = path.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
            name.is_some_and(|name| !name.is_empty() && !name.contains('/') && name != "default")
        };
        self.path == path || self.alike.as_ref().is_some_and(is_alike)
    }

    fn plain(path: String, capability: &'static str) -> Self {
        Self { path, capabilities: vec![capability], required: Vec::new(), allowed: Vec::new(), alike: None }
    }
}

/// The least that the work asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// To sign leaves of a trust domain by a role, under the issuers of these ids; and to read the role. A token that may
    /// do so under another issuer of the mount, by its id, is no wider: while leaves move from one to the next it must.
    #[must_use]
    pub fn leaves<'a>(
        mount: &Mount,
        issuers: impl IntoIterator<Item = &'a Name>,
        role: &Name,
        trust_domain: &str,
    ) -> Self {
        let sign = |issuer: &Name| {
            let (before, after) = (format!("{mount}/issuer/"), format!("/sign/{role}"));
            let mut sign = Rule::plain(format!("{before}{issuer}{after}"), "update");
            sign.alike = Some((before, after));
            sign.required = vec!["csr", "uri_sans"];
            sign.allowed = vec![
                ("csr", Vec::new()),
                ("uri_sans", vec![format!("spiffe://{trust_domain}/*")]),
                ("ttl", Vec::new()),
                ("format", vec!["pem".to_owned()]),
            ];
            sign
        };
        let mut rules: Vec<_> = issuers.into_iter().map(sign).collect();
        rules.push(Rule::plain(format!("{mount}/roles/{role}"), "read"));
        Self { rules }
    }

    /// To have authorities of a trust domain signed under the issuer of that id.
    #[must_use]
    pub fn authorities(mount: &Mount, issuer: &Name, trust_domain: &str) -> Self {
        let mut sign = Rule::plain(format!("{mount}/issuer/{issuer}/sign-intermediate"), "update");
        sign.required = vec!["csr", "common_name", "uri_sans", "max_path_length"];
        sign.allowed = vec![
            ("csr", Vec::new()),
            ("common_name", Vec::new()),
            ("exclude_cn_from_sans", Vec::new()),
            ("uri_sans", vec![format!("spiffe://{trust_domain}")]),
            ("ttl", Vec::new()),
            ("max_path_length", Vec::new()),
            ("format", vec!["pem".to_owned()]),
        ];
        Self { rules: vec![sign] }
    }

    /// To keep a slot of a key-encryption key: encrypt, decrypt, and read which versions the key has. Not `create`: a
    /// key that is not there must not come into being by being used.
    #[must_use]
    pub fn slot(mount: &Mount, key: &Name) -> Self {
        Self {
            rules: vec![
                Rule::plain(format!("{mount}/encrypt/{key}"), "update"),
                Rule::plain(format!("{mount}/decrypt/{key}"), "update"),
                Rule::plain(format!("{mount}/keys/{key}"), "read"),
            ],
        }
    }

    /// And to revoke certificates of the mount, by their text.
    #[must_use]
    pub fn with_revocation(mut self, mount: &Mount) -> Self {
        self.rules.push(Rule::plain(format!("{mount}/revoke"), "update"));
        self
    }

    /// And to ask how often a secret id of an AppRole may be used yet, and until when.
    #[must_use]
    pub fn with_secret_id_lookup(mut self, mount: &Mount, role: &Name) -> Self {
        self.rules.push(Rule::plain(format!("auth/{mount}/role/{role}/secret-id/lookup"), "update"));
        self
    }

    /// Its paths.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The text that `vault policy write NAME -` reads.
    #[must_use]
    pub fn to_hcl(&self) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            let Rule { path, capabilities, required, allowed, .. } = rule;
            let _ = writeln!(text, "path {path:?} {{");
            let _ = writeln!(text, "  capabilities        = {capabilities:?}");
            if !required.is_empty() {
                let _ = writeln!(text, "  required_parameters = {required:?}");
            }
            if !allowed.is_empty() {
                let one = |(name, values): &(&str, Vec<String>)| format!("{name:?} = {values:?}");
                let list = allowed.iter().map(one).collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "  allowed_parameters  = {{ {list} }}");
            }
            let _ = writeln!(text, "}}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_for_leaves_reads_as_it_was_measured() {
        let (mount, issuer) = (Mount::parse("pki").unwrap(), Name::parse("1c3f").unwrap());
        let policy = Policy::leaves(&mount, [&issuer], &Name::parse("svid").unwrap(), "td");
        let expected = "path \"pki/issuer/1c3f/sign/svid\" {\n\
            \x20 capabilities        = [\"update\"]\n\
            \x20 required_parameters = [\"csr\", \"uri_sans\"]\n\
            \x20 allowed_parameters  = { \"csr\" = [], \"uri_sans\" = [\"spiffe://td/*\"], \"ttl\" = [], \
            \"format\" = [\"pem\"] }\n}\n\
            path \"pki/roles/svid\" {\n\
            \x20 capabilities        = [\"read\"]\n}\n";
        assert_eq!(policy.to_hcl(), expected);
    }

    #[test]
    fn nothing_may_create_a_key_or_write_a_role() {
        let (mount, name) = (Mount::parse("m").unwrap(), Name::parse("n").unwrap());
        let all = [
            Policy::leaves(&mount, [&name], &name, "td").with_revocation(&mount),
            Policy::authorities(&mount, &name, "td").with_secret_id_lookup(&mount, &name),
            Policy::slot(&mount, &name),
        ];
        for rule in all.iter().flat_map(Policy::rules) {
            assert!(!rule.path.contains(['*', '+']), "{rule:?}");
            assert!(rule.capabilities.iter().all(|one| ["read", "update"].contains(one)), "{rule:?}");
            assert!(
                rule.required.iter().all(|one| rule.allowed.iter().any(|(name, _)| name == one)),
                "{rule:?}"
            );
        }
    }
}
