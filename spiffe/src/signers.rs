//! Who signs whose leaves: what a binding names, else the default, which may be on its way from one issuer to another.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::{AuthorityId, IssuerName, SpiffeId};

/// Who signs the leaves whose bindings name no issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Division {
    /// Who signs those that have not moved.
    pub from: IssuerName,
    /// Where leaves move, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// The part of leaves that has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Who signs these.
    pub to: IssuerName,
    /// How many of a hundred, by [`bucket`].
    pub percent: u8,
    /// Nobody is to follow before its time: leaves that either of both signed stay until their renewal.
    #[serde(default)]
    pub is_lenient: bool,
}

impl Division {
    /// All of `from`.
    #[must_use]
    pub fn whole(from: IssuerName) -> Self {
        Self { from, share: None }
    }

    /// Who is to sign leaves of `id`.
    #[must_use]
    pub fn of(&self, id: &SpiffeId) -> &IssuerName {
        match &self.share {
            Some(share) if bucket(id) < share.percent => &share.to,
            Some(_) | None => &self.from,
        }
    }

    /// Both of them, or the one.
    pub fn names(&self) -> impl Iterator<Item = &IssuerName> {
        std::iter::once(&self.from).chain(self.share.iter().map(|share| &share.to))
    }
}

/// Which hundredth of all identities this one belongs to, 0 to 99: always the same, so that whoever has moved stays moved
/// while the share grows. The first 8 octets of the SHA-256 of the SPIFFE ID, as a big-endian number, modulo 100.
#[must_use]
pub fn bucket(id: &SpiffeId) -> u8 {
    let hash = digest::digest(&digest::SHA256, id.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    u8::try_from(u64::from_be_bytes(first) % 100).expect("it is less than a hundred")
}

/// An issuer beside the built-in one that may sign now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideSigner {
    /// The authority of it that signs.
    pub authority: AuthorityId,
    /// Who signs in its place while it rests after failures, if an operator named somebody.
    pub fallback: Option<IssuerName>,
}

/// Who signs the leaves of workloads at one moment. Published as `watch<Arc<Signers>>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    /// The built-in authority that signs, if one does.
    pub builtin: Option<AuthorityId>,
    /// Others whose roots everybody believes.
    pub outside: BTreeMap<IssuerName, OutsideSigner>,
    /// Who signs where a binding names nobody.
    pub division: Division,
    /// Leaves of these are replaced at once, and not spread over time.
    pub hurried: BTreeSet<AuthorityId>,
    /// So are all that others than the active built-in authority signed in its place.
    pub is_urgent: bool,
}

/// Who signs one identity's leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Its name.
    pub name: IssuerName,
    /// Its authority; `None` while the built-in issuer has none that may sign.
    pub authority: Option<AuthorityId>,
    /// Who may have signed the leaf in hand without it being replaced before its time, this one included.
    pub accepted: BTreeSet<AuthorityId>,
    /// The authority of whoever signs in its place while it rests: what that one signed stays until its renewal, too.
    pub fallback: Option<AuthorityId>,
}

impl Signers {
    /// Nobody but the built-in authority.
    #[must_use]
    pub fn builtin(active: Option<AuthorityId>) -> Self {
        Self {
            builtin: active,
            outside: BTreeMap::new(),
            division: Division::whole(IssuerName::builtin()),
            hurried: BTreeSet::new(),
            is_urgent: false,
        }
    }

    /// The authority of one issuer by which it signs now; `None` when it does not.
    #[must_use]
    pub fn authority(&self, name: &IssuerName) -> Option<AuthorityId> {
        if name.is_builtin() { self.builtin } else { self.outside.get(name).map(|one| one.authority) }
    }

    /// Who signs leaves of `id`, whose binding names `wish`. Whoever may not sign yet is passed over: the one that the
    /// binding names, then the one that leaves move to, then the one that they move from; then the built-in one signs.
    #[must_use]
    pub fn of(&self, id: &SpiffeId, wish: Option<&IssuerName>) -> Signer {
        let may_sign = |name: &&IssuerName| name.is_builtin() || self.outside.contains_key(*name);
        let wished = wish.filter(may_sign);
        let moved = [self.division.of(id), &self.division.from].into_iter().find(may_sign);
        let name = wished.or(moved).cloned().unwrap_or_else(IssuerName::builtin);
        let mut accepted = BTreeSet::new();
        let fallback = self.outside.get(&name).and_then(|one| one.fallback.as_ref());
        let fallback = fallback.and_then(|name| self.authority(name));
        if let Some(share) = self.division.share.as_ref().filter(|share| share.is_lenient)
            && wished.is_none()
        {
            accepted.extend(self.authority(&share.to));
            accepted.extend(self.authority(&self.division.from));
        }
        accepted.extend(self.authority(&name));
        let stays = |authority: &AuthorityId| !self.hurried.contains(authority);
        accepted.retain(stays);
        Signer { authority: self.authority(&name), name, accepted, fallback: fallback.filter(stays) }
    }

    /// Whether a leaf of `authority` that is not accepted is to be replaced at once.
    #[must_use]
    pub fn hurries(&self, authority: AuthorityId) -> bool {
        self.is_urgent || self.hurried.contains(&authority)
    }
}

#[cfg(test)]
mod tests {
    use certs::SpkiHash;

    use super::*;

    fn named(name: &str) -> IssuerName {
        IssuerName::parse(name).unwrap()
    }

    fn authority(number: u8) -> AuthorityId {
        AuthorityId::of(SpkiHash([number; 32]))
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td{path}")).unwrap()
    }

    const BUILTIN: u8 = 1;
    const CORP: u8 = 2;
    const LAB: u8 = 3;

    /// `corp` and `lab` may sign; `corp` has `lab` sign in its place.
    fn signers(division: Division) -> Signers {
        let corp = OutsideSigner { authority: authority(CORP), fallback: Some(named("lab")) };
        let lab = OutsideSigner { authority: authority(LAB), fallback: None };
        Signers {
            outside: [(named("corp"), corp), (named("lab"), lab)].into(),
            division,
            ..Signers::builtin(Some(authority(BUILTIN)))
        }
    }

    fn moving(from: &str, to: &str, percent: u8) -> Division {
        Division { from: named(from), share: Some(Share { to: named(to), percent, is_lenient: false }) }
    }

    #[test]
    fn the_bucket_is_what_is_written_down() {
        // printf %s spiffe://td/web | sha256sum, its first 16 digits as a number modulo 100.
        for (path, expected) in [("/web", 73), ("/payments", 93), ("/a/b", 23)] {
            assert_eq!(bucket(&id(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_share_takes_about_that_part_and_whoever_has_moved_stays_moved() {
        let ids: Vec<_> = (0..5000).map(|n| id(&format!("/w/{n}"))).collect();
        let moved = |percent| {
            let division = moving("builtin", "corp", percent);
            ids.iter().filter(|id| *division.of(id) == named("corp")).collect::<BTreeSet<_>>()
        };
        let mut before = moved(0);
        assert!(before.is_empty());
        for percent in [5, 25, 50, 100] {
            let now = moved(percent);
            assert!(before.is_subset(&now));
            let expected = ids.len() * usize::from(percent) / 100;
            assert!(now.len().abs_diff(expected) <= ids.len() / 50, "{percent} %: {}", now.len());
            before = now;
        }
        assert_eq!(before.len(), ids.len());
    }

    #[test]
    fn a_binding_comes_before_the_default_and_nobody_signs_before_it_may() {
        let check = |division: Division, wish: Option<&str>, name: &str, number: u8, accepted: &[u8]| {
            let signer = signers(division).of(&id("/web"), wish.map(named).as_ref());
            let accepted = accepted.iter().copied().map(authority).collect();
            let fallback = (name == "corp").then(|| authority(LAB));
            let name = named(name);
            assert_eq!(signer, Signer { name, authority: Some(authority(number)), accepted, fallback });
        };
        let builtin = || Division::whole(IssuerName::builtin());
        check(builtin(), None, "builtin", BUILTIN, &[BUILTIN]);
        check(builtin(), Some("lab"), "lab", LAB, &[LAB]);
        check(builtin(), Some("corp"), "corp", CORP, &[CORP]);
        check(Division::whole(named("lab")), None, "lab", LAB, &[LAB]);
        check(Division::whole(named("lab")), Some("builtin"), "builtin", BUILTIN, &[BUILTIN]);
        // Not yet: the default signs.
        check(Division::whole(named("lab")), Some("new"), "lab", LAB, &[LAB]);
        check(moving("lab", "new", 100), None, "lab", LAB, &[LAB]);
        check(Division::whole(named("gone")), None, "builtin", BUILTIN, &[BUILTIN]);
        // /web is in bucket 73.
        check(moving("builtin", "lab", 73), None, "builtin", BUILTIN, &[BUILTIN]);
        check(moving("builtin", "lab", 74), None, "lab", LAB, &[LAB]);
        let mut taken_back = moving("builtin", "lab", 0);
        taken_back.share.as_mut().unwrap().is_lenient = true;
        check(taken_back.clone(), None, "builtin", BUILTIN, &[BUILTIN, LAB]);
        check(taken_back, Some("builtin"), "builtin", BUILTIN, &[BUILTIN]);
    }

    #[test]
    fn what_is_hurried_is_accepted_from_nobody() {
        let mut signers = signers(Division::whole(named("corp")));
        signers.hurried.insert(authority(LAB));
        assert_eq!(signers.of(&id("/web"), None).fallback, None);
        signers.hurried.insert(authority(CORP));
        assert!(signers.of(&id("/web"), None).accepted.is_empty());
        signers.hurried.remove(&authority(CORP));
        assert!(signers.hurries(authority(LAB)) && !signers.hurries(authority(CORP)));
    }
}
