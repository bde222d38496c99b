//! How long a proxy lets connections go on whose listener was replaced. Envoy tells nobody of `--drain-time-s` by
//! itself, so whoever starts it says it in the node's metadata.

use std::time::Duration;

use prost_types::value::Kind;
use proto::envoy::config::core::v3::Node;

/// The key of `node.metadata`; its value is a number of seconds.
pub const DRAIN_TIME_KEY: &str = "credence.drain_time_s";
const LONGEST: Duration = Duration::from_secs(86_400);

/// What a node says; nothing, if that makes no sense.
pub(super) fn of(node: &Node) -> Option<Duration> {
    let Some(Kind::NumberValue(secs)) = node.metadata.as_ref()?.fields.get(DRAIN_TIME_KEY)?.kind else {
        return None;
    };
    Duration::try_from_secs_f64(secs).ok().filter(|time| *time <= LONGEST)
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value};

    use super::*;

    #[test]
    fn a_node_says_its_drain_time_or_nothing_that_counts() {
        let check = |kind: Option<Kind>, expected: Option<u64>| {
            let fields = [(DRAIN_TIME_KEY.to_owned(), Value { kind: kind.clone() })].into();
            let node = Node { metadata: Some(Struct { fields }), ..Node::default() };
            assert_eq!(of(&node), expected.map(Duration::from_secs), "{kind:?}");
        };
        check(Some(Kind::NumberValue(5.0)), Some(5));
        check(Some(Kind::NumberValue(0.0)), Some(0));
        check(Some(Kind::NumberValue(86_400.0)), Some(86_400));
        for wrong in [-1.0, 86_401.0, f64::NAN, f64::INFINITY] {
            check(Some(Kind::NumberValue(wrong)), None);
        }
        check(Some(Kind::StringValue("5".into())), None);
        check(None, None);
        assert_eq!(of(&Node::default()), None);
    }
}
