//! Why a chain is an SVID or not, rule by rule: `verify_svid`, told whole.

use certs::{Board, Certificate, Context, Ladder, Opinion, Part, Rule, Scope, Usage, explain_on};

use crate::{
    SpiffeId, SvidError, TrustDomain,
    verify::{check_authority, check_usages, identity},
};

/// Whose SVID is expected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected<'a> {
    /// Exactly this identity.
    pub id: Option<&'a SpiffeId>,
    /// An identity of this trust domain, for which the anchors of the context speak.
    pub domain: Option<&'a TrustDomain>,
}

/// What only an SVID must keep, after the rules of every chain.
const RULES: &[Rule] = &[
    rule(
        "uri-names",
        Scope::First,
        "has exactly one URI name",
        "with two, each peer may believe another one (X509-SVID 2)",
        "issue it with one URI name, its SPIFFE ID",
    ),
    rule(
        "spiffe-id",
        Scope::First,
        "has a URI name that is a SPIFFE ID with a path",
        "a name that is not written in the one allowed way could be read as another's (SPIFFE-ID 2)",
        "issue it with a name such as spiffe://prod.example/web, in lower case",
    ),
    rule(
        "trust-domain",
        Scope::First,
        "names the trust domain for which the bundle speaks",
        "the authorities of one trust domain vouch for nobody of another",
        "hold it against the bundle of its own trust domain, or federate with it",
    ),
    rule(
        "expected-id",
        Scope::First,
        "has the SPIFFE ID that is expected",
        "the peer is somebody else",
        "correct who is allowed, or the identity that the node is bound to",
    ),
    rule(
        "foreign-authority",
        Scope::Authorities,
        "names the same trust domain as the leaf, if it names one",
        "an authority of one trust domain must not speak for another (X509-SVID 3.2)",
        "have the authority issued with the URI name of its own trust domain",
    ),
    rule(
        "key-usage",
        Scope::First,
        "has a critical KeyUsage",
        "without it the key may be used for anything (X509-SVID 4.3)",
        "issue it with a critical digitalSignature",
    ),
    rule(
        "no-digital-signature",
        Scope::First,
        "may sign handshakes",
        "TLS 1.3 proves possession by a signature, and key usage lacks digitalSignature",
        "issue it with a critical digitalSignature",
    ),
    rule(
        "purpose",
        Scope::First,
        "says that it is for both ends of TLS, as far as it is used there",
        "without ExtendedKeyUsage it would be good for code and mail too",
        "issue it for serverAuth and clientAuth",
    ),
];

const fn rule(
    name: &'static str,
    scope: Scope,
    asks: &'static str,
    why: &'static str,
    fix: &'static str,
) -> Rule {
    Rule { name, scope, asks, why, fix }
}

/// Envoy's exact matchers find no name that is allowed.
const UNMATCHED: (Opinion, Opinion) = (Opinion::Refuses("verify cert failed: SAN matcher"), Opinion::Accepts);

/// Asks every rule of [`crate::verify_svid`] about `presented`, DER, leaf first.
#[must_use]
pub fn explain(presented: &[&[u8]], context: &Context<'_>, expected: Expected<'_>) -> Ladder {
    let (mut board, path) = explain_on(board(context), presented, context);
    let Some((leaf, above)) = path.split_first() else { return board.finish() };
    let id = ask_identity(leaf, expected, &mut board);
    match id {
        Some(id) if !board.has_failed_at("trust-domain") => {
            for authority in above {
                if let Err(error) = check_authority(authority, id.trust_domain()) {
                    let subject = format!("{:?}", authority.subject());
                    board.fail(error.rule(), &subject, error.to_string(), Opinion::Accepts.both());
                }
            }
        }
        Some(_) => board.skip("foreign-authority", "the leaf itself is of another trust domain"),
        None => board.skip("foreign-authority", "the leaf has no SPIFFE ID"),
    }
    ask_usages(leaf, context, &mut board);
    board.finish()
}

fn board(context: &Context<'_>) -> Board {
    // The rules of every chain come first; `explain_on` answers those.
    debug_assert!(matches!(context.part, Part::Leaf(_)), "an SVID is a leaf");
    Board::of_chains().with(RULES)
}

fn ask_identity(leaf: &Certificate, expected: Expected<'_>, board: &mut Board) -> Option<SpiffeId> {
    let id = match identity(leaf) {
        Ok(id) => id,
        Err(error) => {
            let opinions = match error {
                SvidError::UriNames(0) => UNMATCHED,
                // It looks for any name that is allowed, and there may be one.
                SvidError::UriNames(_) => Opinion::Accepts.both(),
                _ => UNMATCHED,
            };
            board.fail(error.rule(), "first certificate", error.to_string(), opinions);
            for rule in ["spiffe-id", "trust-domain", "expected-id"] {
                board.skip(rule, "it has no single SPIFFE ID");
            }
            return None;
        }
    };
    match expected.domain {
        None => board.skip("trust-domain", "nobody said for which trust domain the bundle speaks"),
        Some(domain) if domain == id.trust_domain() => {
            if let Err(reason) = id.class() {
                let error = SvidError::Id { name: id.to_string(), reason };
                board.fail(error.rule(), "first certificate", error.to_string(), UNMATCHED);
            }
        }
        Some(domain) => {
            let found = format!("is of {}, the bundle speaks for {domain}", id.trust_domain());
            board.fail("trust-domain", "first certificate", found, UNMATCHED);
        }
    }
    match expected.id {
        None => board.skip("expected-id", "nobody in particular was expected"),
        Some(wanted) if *wanted == id => {}
        Some(wanted) => {
            let found = format!("is {id}, and {wanted} is expected");
            board.fail("expected-id", "first certificate", found, UNMATCHED);
        }
    }
    Some(id)
}

fn ask_usages(leaf: &Certificate, context: &Context<'_>, board: &mut Board) {
    let Part::Leaf(usage) = context.part else { return };
    // KeyUsage that does not parse, or a purpose that is wrong, has failed by another rule already.
    let is_told = |board: &Board| {
        ["malformed-extension", "wrong-usage", "any-usage"].iter().any(|rule| board.has_failed_at(rule))
    };
    match check_usages(leaf, usage) {
        Ok(()) => {}
        Err(error) if is_told(board) => board.skip(error.rule(), "the extension breaks another rule already"),
        Err(error) => {
            let opinions = match error {
                SvidError::NoDigitalSignature => {
                    (Opinion::Refuses("KEY_USAGE_BIT_INCORRECT"), Opinion::Accepts)
                }
                SvidError::Purpose(_) if usage == Usage::Any && !leaf.extended_key_usages().is_empty() => {
                    Opinion::unknown()
                }
                _ => Opinion::Accepts.both(),
            };
            board.fail(error.rule(), "first certificate", error.to_string(), opinions);
        }
    }
}
