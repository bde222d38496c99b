//! Which names a stream wants of one type: the rules of the xDS protocol page, "How the client specifies what
//! resources to return".

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use crate::TypeUrl;

/// The name that means all.
pub(super) const ALL: &str = "*";

/// The names wanted by one stream of one type. Three things look alike and differ: nothing was ever asked,
/// everything is wanted by the legacy empty list, and nothing is wanted any more.
#[derive(Debug)]
pub(super) struct Names {
    type_url: TypeUrl,
    started: bool,
    named_once: bool,
    wildcard: bool,
    explicit: BTreeSet<Arc<str>>,
}

/// What one request changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NamesChange {
    /// Names that must be answered.
    pub(super) asked: Vec<Arc<str>>,
    /// Names that are explicit now and were not.
    pub(crate) added: Vec<Arc<str>>,
    /// Names that were explicit and are no longer.
    pub(crate) dropped: Vec<Arc<str>>,
    /// Names that were to be dropped beside a wildcard and never were explicit.
    pub(super) strange: Vec<Arc<str>>,
    /// All must be answered.
    pub(super) wildcard_asked: bool,
    /// The wildcard ended.
    pub(super) wildcard_dropped: bool,
}

impl NamesChange {
    /// Whether anything is wanted no longer.
    pub(crate) fn drops(&self) -> bool {
        self.wildcard_dropped || !self.dropped.is_empty()
    }
}

impl Names {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        Self { type_url, started: false, named_once: false, wildcard: false, explicit: BTreeSet::new() }
    }

    /// Whether a request of this type has arrived.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.explicit.contains(name)
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn explicit(&self) -> &BTreeSet<Arc<str>> {
        &self.explicit
    }

    pub(super) fn is_explicit(&self, name: &str) -> bool {
        self.explicit.contains(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.explicit.is_empty()
    }

    /// Secrets have no wildcard: there `*` is a name like any other, of a secret that never exists.
    fn is_all(&self, name: &str) -> bool {
        name == ALL && self.type_url != TypeUrl::Secret
    }

    /// A state-of-the-world request carries the whole list (xds.md 71-75).
    pub(super) fn replace(&mut self, names: Vec<String>) -> NamesChange {
        let legacy = names.is_empty() && !self.named_once && self.type_url.is_full_state();
        self.started = true;
        self.named_once |= !names.is_empty();
        let all = legacy || names.iter().any(|name| self.is_all(name));
        let mut explicit = BTreeSet::new();
        let mut change = NamesChange {
            wildcard_asked: all && !self.wildcard,
            wildcard_dropped: !all && self.wildcard,
            ..NamesChange::default()
        };
        for name in names {
            if self.is_all(&name) {
                continue;
            }
            match self.explicit.take(name.as_str()) {
                Some(known) => explicit.insert(known),
                None => {
                    let name: Arc<str> = name.into();
                    let new = explicit.insert(name.clone());
                    if new {
                        change.asked.push(name.clone());
                        change.added.push(name);
                    }
                    new
                }
            };
        }
        change.dropped = std::mem::replace(&mut self.explicit, explicit).into_iter().collect();
        change.dropped.retain(|name| !self.explicit.contains(name));
        self.wildcard = all;
        change
    }

    /// A delta request carries additions, then removals (xds.md 49-50, 53-55, 71-78).
    pub(super) fn adjust(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) -> NamesChange {
        let mut change = NamesChange::default();
        let leaves_all = unsubscribe.iter().any(|name| self.is_all(name));
        if !self.started && subscribe.is_empty() && self.type_url.is_full_state() && !leaves_all {
            self.wildcard = true;
            change.wildcard_asked = true;
        }
        self.started = true;
        for name in subscribe {
            if self.is_all(&name) {
                self.wildcard = true;
                change.wildcard_asked = true;
                continue;
            }
            let name: Arc<str> = name.into();
            if self.explicit.insert(name.clone()) {
                change.added.push(name.clone());
            }
            change.asked.push(name);
        }
        if leaves_all {
            change.wildcard_dropped = std::mem::take(&mut self.wildcard);
            change.wildcard_asked = false;
        }
        // Once, not for each name: a stranger says how many there are on both sides.
        let left: HashSet<&str> = unsubscribe.iter().map(String::as_str).collect();
        change.asked.retain(|asked| !left.contains(&**asked));
        for name in unsubscribe {
            if self.is_all(&name) {
                continue;
            }
            match self.explicit.take(name.as_str()) {
                Some(known) => change.dropped.push(known),
                None if self.wildcard => change.strange.push(name.into()),
                None => {}
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(names: &Names) -> String {
        let mut words: Vec<&str> = names.explicit.iter().map(|name| &**name).collect();
        if names.wildcard {
            words.insert(0, ALL);
        }
        words.join(" ")
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn check_sotw(type_url: TypeUrl, table: &[(&[&str], &str)]) {
        let mut names = Names::new(type_url);
        for (request, expected) in table {
            names.replace(owned(request));
            assert_eq!(show(&names), *expected, "{type_url:?} after {request:?}");
        }
    }

    fn check_delta(type_url: TypeUrl, table: &[(&[&str], &[&str], &str)]) {
        let mut names = Names::new(type_url);
        for (subscribe, unsubscribe, expected) in table {
            names.adjust(owned(subscribe), owned(unsubscribe));
            assert_eq!(show(&names), *expected, "{type_url:?} after +{subscribe:?} -{unsubscribe:?}");
        }
    }

    /// xds.md 71, 72, 73, 75, 79.
    #[test]
    fn a_sotw_list_means_what_the_protocol_page_says() {
        check_sotw(TypeUrl::Cluster, &[(&[], "*"), (&["*", "A"], "* A"), (&["A"], "A"), (&[], "")]);
        check_sotw(TypeUrl::Listener, &[(&["A"], "A"), (&[], ""), (&[], "")]);
        check_sotw(TypeUrl::Listener, &[(&[], "*"), (&[], "*"), (&[""], ""), (&[], "")]);
        for named in [TypeUrl::Endpoints, TypeUrl::Route, TypeUrl::Secret, TypeUrl::Extension] {
            check_sotw(named, &[(&[], ""), (&["A"], "A"), (&[], "")]);
        }
    }

    /// xds.md 71, 72, 74, 75, 76, 77, 78.
    #[test]
    fn delta_lists_mean_what_the_protocol_page_says() {
        check_delta(
            TypeUrl::Cluster,
            &[(&[], &[], "*"), (&["A"], &[], "* A"), (&[], &["*"], "A"), (&[], &["A"], "")],
        );
        check_delta(TypeUrl::Cluster, &[(&["*"], &["*"], ""), (&[], &[], "")]);
        check_delta(TypeUrl::Cluster, &[(&[], &["*"], ""), (&[], &[], "")]);
        check_delta(TypeUrl::Cluster, &[(&["A"], &[], "A"), (&[], &["A"], ""), (&[], &[], "")]);
        check_delta(TypeUrl::Endpoints, &[(&[], &[], ""), (&["*"], &[], "*"), (&["A"], &["*"], "A")]);
    }

    /// R5: a wildcard over secrets would be a wish for everybody's keys.
    #[test]
    fn a_star_is_an_ordinary_name_among_secrets() {
        let mut names = Names::new(TypeUrl::Secret);
        names.replace(owned(&["*"]));
        assert!(!names.covers("default") && names.is_explicit("*"));
    }

    /// xds.md 53.
    #[test]
    fn a_name_that_is_left_is_told_from_one_that_never_was_wanted() {
        let mut names = Names::new(TypeUrl::Cluster);
        names.adjust(owned(&["*", "A"]), vec![]);
        let change = names.adjust(owned(&["B", "C"]), owned(&["A", "B", "unknown"]));
        assert_eq!(change.asked, vec![Arc::from("C")]);
        assert_eq!(change.dropped, vec![Arc::from("A"), Arc::from("B")]);
        assert_eq!(change.strange, vec![Arc::from("unknown")]);
        let mut names = Names::new(TypeUrl::Endpoints);
        names.adjust(owned(&["A"]), vec![]);
        let change = names.adjust(vec![], owned(&["A", "unknown"]));
        assert_eq!((change.asked, change.strange), (vec![], vec![]));
        assert_eq!(change.dropped, vec![Arc::from("A")]);
    }
}
