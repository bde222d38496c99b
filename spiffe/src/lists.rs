//! Revocation lists as proxies are shown them: of every issuing authority, or none.

use std::{collections::BTreeMap, sync::Arc};

use certs::{Crl, Timestamp};

use crate::AuthorityId;

/// The newest list of one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownList {
    /// Whose.
    pub authority: AuthorityId,
    /// Its number, which grows with every list of the authority.
    pub number: u64,
    /// The list itself.
    pub crl: Arc<Crl>,
}

/// A list of every issuing authority that signed anything. Whoever checks against some of them refuses what the
/// others signed, so they are never taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationLists {
    lists: Vec<ShownList>,
}

impl RevocationLists {
    /// Puts lists together, in an order that does not depend on how they were found; the caller vouches that none is
    /// missing.
    #[must_use]
    pub fn new(mut lists: Vec<ShownList>) -> Self {
        lists.sort_by_key(|list| list.authority);
        Self { lists }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[ShownList] {
        &self.lists
    }

    /// The numbers, by authority.
    #[must_use]
    pub fn numbers(&self) -> BTreeMap<AuthorityId, u64> {
        self.lists.iter().map(|list| (list.authority, list.number)).collect()
    }

    /// When the first of them ends: from then on they would refuse what is good.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.lists.iter().map(|list| list.crl.next_update()).min()
    }

    /// Whether every one of them counts at `now`.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.lists.iter().all(|list| list.crl.this_update() <= now && now < list.crl.next_update())
    }
}

/// How revocation lists stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lists {
    /// Nobody asked for them.
    #[default]
    Off,
    /// They are wanted, and one is missing or about to end: proxies get none.
    Withdrawn,
    /// Proxies check against these.
    Shown(Arc<RevocationLists>),
}

impl Lists {
    /// Whether they are wanted, shown or not.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        *self != Self::Off
    }

    /// Those that proxies check against at `now`. One that has ended by then hides all of them.
    #[must_use]
    pub fn shown(&self, now: Timestamp) -> Option<&RevocationLists> {
        match self {
            Self::Shown(lists) if lists.is_fresh(now) => Some(lists),
            Self::Shown(_) | Self::Withdrawn | Self::Off => None,
        }
    }
}
