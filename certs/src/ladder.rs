//! Why a chain is believed or not, rule by rule: what `verify_chain` decides, told whole.
//!
//! A verifier stops at its first reason. A ladder asks every rule, each exactly once, and says for each one that
//! fails what others would have said: Envoy lets much pass that an SVID may not be, rustls refuses some that Envoy
//! takes. What is said of them was measured; a suite holds every sentence against a real Envoy and a real rustls.
//!
//! ```text
//! explain(presented, context)   what anybody must hold      verify_chain, told whole; spiffe::explain adds who
//! explain_profile(certificate)  what we would have issued   lint, told whole
//! explain_brought(presented)    whether we may sign with it an issuing authority that somebody else signed
//! ```

mod brought;
mod certificates;
mod opinion;
mod path;
mod profile;
mod rules;
mod rung;

use std::time::Duration;

pub use self::brought::{
    Brought, MAX_INTERMEDIATES, Wanted, explain_brought, explain_unreadable, is_self_signed,
};
pub use self::opinion::Opinion;
pub use self::profile::explain_profile;
pub use self::rung::{Board, Ladder, Link, Rule, Rung, Scope, Verdict};
use self::{certificates::Presented, path::Path, rules::RULES};
use crate::{
    Certificate, Chain, MAX_DEPTH, SpkiHash, Timestamp, Usage, VerifiedChain, VerifyOptions, format_duration,
    verify_chain,
};

/// Which part the first presented certificate is to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A leaf, used for this.
    Leaf(Usage),
    /// An authority that is to sign leaves which live this long.
    Issuing(Duration),
    /// A trusted authority.
    Root,
}

/// What is known of a certificate being taken back, beside revocation lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RevocationState {
    /// Nobody was asked.
    #[default]
    Unasked,
    /// Whoever issued it says that it is not revoked.
    Good,
    /// It was revoked then, as whoever issued it says.
    Revoked(Timestamp),
}

/// What a chain is held against.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time for which it must be valid.
    pub now: Timestamp,
    /// What the first certificate is to be.
    pub part: Part,
    /// Who is trusted; `None` when nobody said, and then the end of the path is not asked about.
    pub anchors: Option<&'a [Certificate]>,
    /// The key that the first certificate must have.
    pub key: Option<SpkiHash>,
    /// Keys that no certificate of the path may carry any more.
    pub tainted: &'a [SpkiHash],
    /// What is known of the first certificate being revoked.
    pub revocation: RevocationState,
}

impl Context<'_> {
    /// Without anchors, key and tainted keys; whether it is revoked is not asked.
    #[must_use]
    pub fn new(now: Timestamp, part: Part) -> Self {
        Self { now, part, anchors: None, key: None, tainted: &[], revocation: RevocationState::Unasked }
    }
}

/// Asks every rule of the verifier about `presented`, DER, the certificate in question first.
///
/// All rungs pass, or are skipped, exactly when [`verify_chain`] believes the chain; but for `peer-key`, `peer-path`,
/// `key-match` and `revoked`, which it does not ask about. Without anchors nothing is said about trust.
#[must_use]
pub fn explain(presented: &[&[u8]], context: &Context<'_>) -> Ladder {
    explain_on(Board::new(RULES), presented, context).0.finish()
}

/// As [`explain`], on a board that may have more rules, to be answered by the caller; also the path that was found,
/// the certificate in question first.
#[must_use]
pub fn explain_on(mut board: Board, presented: &[&[u8]], context: &Context<'_>) -> (Board, Vec<Certificate>) {
    let presented = Presented::read(presented, &mut board);
    let Some(first) = presented.first() else {
        board.skip_rest("the certificate in question does not parse");
        return (board, Vec::new());
    };
    let verdict = presented.chain().and_then(|chain| verdict(&chain, context));
    let path = match &verdict {
        Some(Ok(verified)) => Path::known(verified.path(), &presented, context),
        _ => Path::walk(&presented, context),
    };
    certificates::ask(&path, context, &mut board);
    path.ask(context, &mut board);
    path.ask_peers(&presented, context, &mut board);
    key(first, context, &mut board);
    if let Some(Err(error)) = verdict
        && !board.has_failed()
    {
        board.fail(error.rule(), "the chain", error.to_string(), Opinion::unknown());
    }
    board.set_chain(path.links());
    let path = path.steps().iter().map(|step| step.certificate.clone()).collect();
    (board, path)
}

/// What the verifier itself says, where it is asked: it knows leaves and anchors.
fn verdict(chain: &Chain, context: &Context<'_>) -> Option<Result<VerifiedChain, crate::VerifyError>> {
    let Part::Leaf(usage) = context.part else { return None };
    let options = VerifyOptions { tainted: context.tainted, ..VerifyOptions::new(context.now, usage) };
    Some(verify_chain(chain, context.anchors?, &options))
}

/// What is asked about the key beside the strict rules: whether it is the one that was meant, and whether peers
/// take it.
fn key(first: &Certificate, context: &Context<'_>, board: &mut Board) {
    match context.key {
        None => board.skip("key-match", "no key was given"),
        Some(key) if key == first.spki_hash() => {}
        Some(key) => {
            let found = format!("has the public key {}, the key given has {key}", first.spki_hash());
            board.fail("key-match", "first certificate", found, Opinion::unknown());
        }
    }
    if let Part::Issuing(leaf_life) = context.part {
        let left = first.not_after().since(context.now);
        if left < leaf_life * MIN_LEAF_LIVES {
            let found =
                format!("has {} left, leaves live {}", format_duration(left), format_duration(leaf_life));
            board.fail("life-left", "issuing authority", found, Opinion::both(Opinion::Accepts));
        }
    } else {
        board.skip("life-left", "asked of an issuing authority only");
    }
}

/// How many lives of leaves an issuing authority must have before it. It is replaced at half of its life, when three
/// are left: one for the leaves that it signed last, and two in which its successor may fail to be made, before it has
/// too little left to sign.
pub const MIN_LEAF_LIVES: u32 = 6;

/// The most intermediates that a path may have.
const DEPTH: usize = MAX_DEPTH;
