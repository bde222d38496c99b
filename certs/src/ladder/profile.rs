//! What Credence itself would have issued, rule by rule: `lint`, told whole.

use super::{
    opinion::{self, Opinion},
    rules::{RULES, rules},
    rung::{Board, Ladder, Rule, Scope},
};
use crate::{
    Certificate, Fault, Position, Profile, Severity, Usage, lint,
    verify::rules::{Role, faults},
};

rules! {
    /// What only a certificate of ours must be (security reference 5.1).
    PROFILE:
    First "profile-key" "has the key of its profile: P-256 or P-384, a root P-384"
        "P-256 and P-384 are what every peer takes, and a root lives long"
        "make the key that the profile says"
    First "serial-entropy" "has a serial number of 20 octets"
        "a serial that can be guessed helps who can make two certificates with one hash"
        "have it issued with 20 random octets, the top bit clear"
    First "lifetime" "lives as long as its profile allows"
        "short lives are what revokes a certificate of ours"
        "issue it for less: 24 h at most for leaves, 366 d for an issuing authority, 10 y for a root"
    First "subject" "has no subject, being a leaf"
        "the SPIFFE ID is its only name, and a second one invites somebody to believe it (X509-SVID 2)"
        "issue it with an empty subject"
    First "uri" "has one URI name, its SPIFFE ID; an authority its trust domain"
        "X509-SVID 2 asks for exactly one"
        "issue it with one"
    First "names" "has no names beside it that its class has no use for"
        "a name that nobody needs is one that somebody may believe"
        "issue it without them"
    First "basic-constraints" "has critical BasicConstraints as its profile says"
        "they say who is an authority, and how far down"
        "issue it with CA:FALSE for a leaf, path length 0 for an issuing authority, 1 for a root"
    First "key-usage" "has exactly the key usages of its profile"
        "a key with one use is misused in one way"
        "issue it with digitalSignature for a leaf, keyCertSign and cRLSign for an authority, critical"
    First "purposes" "is for serverAuth and clientAuth, uncritical; an authority for nothing in particular"
        "a workload is both ends of its connections"
        "issue it with both, or with none for an authority"
    First "key-id" "has key identifiers, and its issuer's is the issuer's"
        "a path is found by them when authorities change"
        "issue it again from the authority that is meant"
    First "extensions" "has no other extension"
        "what nobody looks at is not ours to sign"
        "issue it without them"
    First "issuer" "is named, signed and allowed by its issuer"
        "a path is found by that name"
        "issue it from the authority that is meant"
    First "path-length" "is below an authority that may sign it"
        "an authority with path length 0 may sign leaves only (RFC 5280 4.2.1.9)"
        "issue it from the root"
    First "outlives-issuer" "begins and ends inside its issuer's life"
        "it dies with its issuer, whatever it says"
        "issue it for less, or rotate the issuer first"
}

/// Asks everything that [`lint`] asks about `certificate`. Time is not asked about: what was once issued rightly
/// stays so. `issuer` is the certificate that signs it, if it is known; for a root it is the root itself.
#[must_use]
pub fn explain_profile(certificate: &Certificate, issuer: Option<&Certificate>, profile: Profile) -> Ladder {
    let own: Vec<Rule> = RULES.iter().copied().filter(is_of_one_certificate).collect();
    let mut board = Board::new(&own).with(PROFILE);
    let is_leaf = !profile.is_authority();
    let role = match profile {
        Profile::Root => Role::Anchor,
        Profile::Issuing => Role::Intermediate,
        Profile::Node | Profile::Workload | Profile::Server | Profile::Operator => Role::Leaf(Usage::Any),
    };
    let position = if is_leaf { Position::Leaf } else { Position::Intermediate(0) };
    let all = faults(certificate, role, None);
    let findings = lint(certificate, issuer.filter(|_| profile != Profile::Root), profile);
    for finding in findings {
        let is_unasked = issuer.is_none() && profile != Profile::Root;
        if is_unasked && BESIDE_ISSUER.contains(&finding.rule) {
            continue;
        }
        if finding.severity == Severity::Warning {
            board.remark(finding.rule, &finding.message);
            continue;
        }
        let fault: Option<&Fault> = all.iter().find(|fault| fault.rule() == finding.rule);
        let opinions = match fault {
            Some(fault) => opinion::on_fault(certificate, position, fault, &all),
            None if is_leaf && HARMLESS_TO_PEERS.contains(&finding.rule) => Opinion::Accepts.both(),
            None => Opinion::unknown(),
        };
        board.fail(finding.rule, "first certificate", finding.message, opinions);
    }
    if let Some(issuer) = issuer.filter(|_| profile != Profile::Root)
        && !certificate.is_signed_by(issuer)
    {
        board.fail(
            "issuer",
            "first certificate",
            "is not signed by the key of its issuer",
            opinion::NO_ISSUER,
        );
    }
    if issuer.is_none() && profile != Profile::Root {
        BESIDE_ISSUER.iter().for_each(|rule| board.skip(rule, "its issuer was not given"));
    }
    if !is_leaf {
        let leaf = ["leaf-is-authority", "leaf-signs", "any-usage", "subject"];
        leaf.iter().for_each(|rule| board.skip(rule, "asked of a leaf only"));
    }
    board.finish()
}

/// What cannot be asked without the issuer.
const BESIDE_ISSUER: [&str; 5] = ["issuer", "key-id", "path-length", "outlives-issuer", "authority-key"];

/// What neither Envoy nor rustls asks of a leaf: measured.
const HARMLESS_TO_PEERS: [&str; 5] = ["serial-entropy", "lifetime", "subject", "names", "extensions"];

/// What needs neither a path nor a time.
fn is_of_one_certificate(rule: &Rule) -> bool {
    let elsewhere =
        ["parse", "expired", "not-yet-valid", "tainted-key", "peer-key", "key-match", "life-left"];
    rule.scope != Scope::Chain && !elsewhere.contains(&rule.name)
}
