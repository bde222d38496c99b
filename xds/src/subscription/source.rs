//! What may be sent of one type at one moment: a snapshot's map, or a view of secrets.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};

use crate::{Resource, SecretOffer, SecretView, Snapshot, TypeUrl};

/// What is known of one name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Offer<'a> {
    /// It is this.
    Held(&'a Arc<Resource>),
    /// Nothing can be said yet.
    Silent,
    /// There is none.
    Absent,
}

/// The resources of one type that the node may have. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Of a snapshot.
    Public(OrdMap<Arc<str>, Arc<Resource>>),
    /// Of a peer's secrets.
    Secrets(SecretView),
}

impl Source {
    /// The part of `snapshot` that holds `type_url`.
    pub(crate) fn of(snapshot: &Snapshot, type_url: TypeUrl) -> Self {
        Self::Public(snapshot.of(type_url).clone())
    }

    pub(super) fn offer(&self, name: &str) -> Offer<'_> {
        match self {
            Self::Public(map) => map.get(name).map_or(Offer::Absent, Offer::Held),
            Self::Secrets(view) => match view.get(name) {
                Some(SecretOffer::Held(resource)) => Offer::Held(resource),
                Some(SecretOffer::Pending) | None => Offer::Silent,
                Some(SecretOffer::Absent) => Offer::Absent,
            },
        }
    }

    /// How many names something is known of.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Public(map) => map.len(),
            Self::Secrets(view) => view.len(),
        }
    }

    /// All there is, shared, where that can be had at no cost.
    pub(super) fn all(&self) -> Option<&OrdMap<Arc<str>, Arc<Resource>>> {
        match self {
            Self::Public(map) => Some(map),
            Self::Secrets(_) => None,
        }
    }

    /// Calls `changed` with every name that differs between the two. Costs the difference: nodes that both maps
    /// share are not visited.
    pub(super) fn differences(&self, newer: &Self, mut changed: impl FnMut(&Arc<str>)) {
        match (self, newer) {
            (Self::Public(old), Self::Public(new)) => each_difference(old, new, &mut changed),
            (Self::Secrets(old), Self::Secrets(new)) => each_difference(old, new, &mut changed),
            (Self::Public(_), Self::Secrets(new)) => new.keys().for_each(changed),
            (Self::Secrets(_), Self::Public(new)) => new.keys().for_each(changed),
        }
    }
}

fn each_difference<V: Clone + PartialEq>(
    old: &OrdMap<Arc<str>, V>,
    new: &OrdMap<Arc<str>, V>,
    changed: &mut impl FnMut(&Arc<str>),
) {
    for item in old.diff(new) {
        match item {
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. } => {
                changed(name);
            }
        }
    }
}
