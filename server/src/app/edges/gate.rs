//! Whether everybody who should has taken what was published (PURE).

use spiffe::NodeId;

/// How far a proxy is with one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// It acknowledged it.
    Acknowledged,
    /// It has not answered yet.
    Waiting,
    /// It refused it, with these words.
    Refused(String),
}

/// A connected proxy that serves the listener, with all that it should have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) node: NodeId,
    pub(super) pieces: Vec<Piece>,
}

/// How far all of them are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every one of them has taken it.
    Ready,
    /// These have not answered yet.
    Waiting(Vec<NodeId>),
    /// One of them will not.
    Refused(NodeId, String),
    /// There is none, so that nobody would answer.
    Nobody,
}

/// Who refuses is named before who is late: waiting does not help there.
pub(super) fn judge(proxies: &[Proxy]) -> Verdict {
    if proxies.is_empty() {
        return Verdict::Nobody;
    }
    let refused = proxies.iter().find_map(|proxy| {
        proxy.pieces.iter().find_map(|piece| match piece {
            Piece::Refused(words) => Some(Verdict::Refused(proxy.node.clone(), words.clone())),
            Piece::Acknowledged | Piece::Waiting => None,
        })
    });
    if let Some(refused) = refused {
        return refused;
    }
    let late: Vec<NodeId> = proxies
        .iter()
        .filter(|proxy| proxy.pieces.contains(&Piece::Waiting))
        .map(|proxy| proxy.node.clone())
        .collect();
    if late.is_empty() { Verdict::Ready } else { Verdict::Waiting(late) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    #[test]
    fn all_must_have_taken_all_of_it() {
        use Piece::{Acknowledged, Refused, Waiting};
        let check = |proxies: &[(&str, &[Piece])], expected: Verdict| {
            let proxies: Vec<Proxy> = proxies
                .iter()
                .map(|(name, pieces)| Proxy { node: node(name), pieces: pieces.to_vec() })
                .collect();
            assert_eq!(judge(&proxies), expected, "{proxies:?}");
        };
        let no = || Refused("no".to_owned());
        check(&[], Verdict::Nobody);
        check(&[("a", &[Acknowledged, Acknowledged])], Verdict::Ready);
        check(&[("a", &[Acknowledged, Waiting])], Verdict::Waiting(vec![node("a")]));
        check(&[("a", &[Acknowledged]), ("b", &[Waiting])], Verdict::Waiting(vec![node("b")]));
        check(&[("a", &[Waiting]), ("b", &[no()])], Verdict::Refused(node("b"), "no".to_owned()));
        check(&[("a", &[Waiting, no()])], Verdict::Refused(node("a"), "no".to_owned()));
    }
}
