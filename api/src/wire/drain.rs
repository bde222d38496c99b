//! Connections that end before their time.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is, or would be, replaced so that connections end, and within how long they do. How many are open at a proxy is
/// known to the proxy alone: its statistic `listener.ADDRESS.downstream_cx_active`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Proxies that it concerns.
    pub proxies: usize,
    /// Listeners with a chain that is replaced, counted on every proxy.
    pub listeners: usize,
    /// Clusters that are replaced, counted on every proxy.
    pub clusters: usize,
    /// Within how many seconds connections end, and at how many proxies, as these said of themselves.
    pub within: Vec<DrainTime>,
    /// Proxies that did not say, by name, at most 100: Envoy's own default is ten minutes, and gradual.
    pub untold: Vec<String>,
    /// How many did not say.
    pub untold_count: usize,
}

/// Proxies of one drain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainTime {
    /// Seconds.
    pub secs: u64,
    /// How many proxies.
    pub proxies: usize,
}

/// `within 5 s on 12 proxies; on 2 proxies within a drain time that they did not tell (...), so that ...: a, b`.
impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies = |count| if count == 1 { "proxy" } else { "proxies" };
        let told = self
            .within
            .iter()
            .map(|one| format!("within {} s on {} {}", one.secs, one.proxies, proxies(one.proxies)));
        let untold = (self.untold_count > 0).then(|| {
            let count = self.untold_count;
            format!(
                "on {count} {} within a drain time that {} did not tell (Envoy's default is 600 s, gradually), so that it \
                 cannot be enforced there: {}",
                proxies(count),
                if count == 1 { "it" } else { "they" },
                self.untold.join(", "),
            )
        });
        let all: Vec<String> = told.chain(untold).collect();
        f.write_str(if all.is_empty() { "nowhere" } else { "" })?;
        f.write_str(&all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_soon_and_where_nobody_knows() {
        let untold = |names: &[&str]| Drain {
            within: vec![DrainTime { secs: 5, proxies: 12 }],
            untold: names.iter().map(|name| (*name).to_owned()).collect(),
            untold_count: names.len(),
            ..Drain::default()
        };
        let rest = "did not tell (Envoy's default is 600 s, gradually), so that it cannot be enforced there";
        for (drain, expected) in [
            (Drain::default(), "nowhere".to_owned()),
            (untold(&[]), "within 5 s on 12 proxies".to_owned()),
            (
                untold(&["a"]),
                format!("within 5 s on 12 proxies; on 1 proxy within a drain time that it {rest}: a"),
            ),
            (
                untold(&["a", "b"]),
                format!("within 5 s on 12 proxies; on 2 proxies within a drain time that they {rest}: a, b"),
            ),
        ] {
            assert_eq!(drain.to_string(), expected);
        }
    }
}
