//! The numbers that operators ask for, in the Prometheus text format. Every name starts with `credence_`.
//!
//! Counters that belong to the accept loops live here. Everything else is read from the parts' own read models
//! when somebody scrapes, so that no part knows of metrics.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::{Registry, Unit},
};

/// What one accept loop counts.
#[derive(Debug)]
pub(crate) struct DoorMetrics {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) overloaded: Counter,
    pub(crate) disbelieved: Counter,
    pub(crate) open: Gauge,
}

/// Which door counted.
type DoorLabel = [(&'static str, &'static str); 1];

/// What all accept loops count: each number is one family, whose members differ by their door.
#[derive(Debug, Default)]
struct Doors {
    accepted: Family<DoorLabel, Counter>,
    refused: Family<DoorLabel, Counter>,
    overloaded: Family<DoorLabel, Counter>,
    disbelieved: Family<DoorLabel, Counter>,
    open: Family<DoorLabel, Gauge>,
}

impl Doors {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "connections_accepted",
            "Connections that passed their handshake",
            self.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused in their handshake",
            self.refused.clone(),
        );
        registry.register(
            "connections_overloaded",
            "Connections dropped because a limit was reached",
            self.overloaded.clone(),
        );
        registry.register(
            "connections_disbelieved",
            "Handshakes in which the client did not believe our certificate while the root before was in force",
            self.disbelieved.clone(),
        );
        registry.register("connections_open", "Open connections", self.open.clone());
    }
}

/// One number at the time of a scrape.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: SampleValue,
}

/// Its kind decides how scrapers treat it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SampleValue {
    /// Goes up and down.
    Gauge(f64),
    /// Only grows while the process lives.
    Counter(u64),
}

type Source = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    doors: Doors,
}

impl Default for Metrics {
    fn default() -> Self {
        let (mut registry, doors) = (Registry::with_prefix("credence"), Doors::default());
        doors.register(&mut registry);
        Self { registry: Mutex::new(registry), doors }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The counters of the door `name`.
    pub(crate) fn door(&self, name: &'static str) -> Arc<DoorMetrics> {
        let (label, doors) = ([("door", name)], &self.doors);
        Arc::new(DoorMetrics {
            accepted: doors.accepted.get_or_create_owned(&label),
            refused: doors.refused.get_or_create_owned(&label),
            overloaded: doors.overloaded.get_or_create_owned(&label),
            disbelieved: doors.disbelieved.get_or_create_owned(&label),
            open: doors.open.get_or_create_owned(&label),
        })
    }

    /// Adds numbers that are read at each scrape.
    pub(crate) fn add_source(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(Scraped(Box::new(source))));
    }

    /// The text that a scraper reads.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => format!("# metrics could not be written: {error}\n# EOF\n"),
        }
    }
}

struct Scraped(Source);

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scraped")
    }
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut samples = (self.0)();
        samples.sort_by(|a, b| a.name.cmp(b.name));
        for family in samples.chunk_by(|a, b| a.name == b.name) {
            let first = &family[0];
            let none: Option<&Unit> = None;
            match first.value {
                SampleValue::Gauge(_) => {
                    let kind = ConstGauge::<f64>::new(0.0).metric_type();
                    let mut metric = encoder.encode_descriptor(first.name, first.help, none, kind)?;
                    for sample in family {
                        if let SampleValue::Gauge(value) = sample.value {
                            ConstGauge::new(value).encode(metric.encode_family(&sample.labels)?)?;
                        }
                    }
                }
                SampleValue::Counter(_) => {
                    let kind = ConstCounter::<u64>::new(0).metric_type();
                    let mut metric = encoder.encode_descriptor(first.name, first.help, none, kind)?;
                    for sample in family {
                        if let SampleValue::Counter(value) = sample.value {
                            ConstCounter::new(value).encode(metric.encode_family(&sample.labels)?)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scraped_samples_stand_in_one_family_with_their_labels() {
        let metrics = Metrics::default();
        metrics.door("xds").accepted.inc();
        metrics.add_source(|| {
            ["root", "issuing"]
                .into_iter()
                .map(|name| Sample {
                    name: "expiry_seconds",
                    help: "Seconds until it expires",
                    labels: vec![("kind", "authority".into()), ("name", name.into())],
                    value: SampleValue::Gauge(12.5),
                })
                .collect()
        });
        let text = metrics.to_text();
        assert!(text.contains("credence_connections_accepted_total{door=\"xds\"} 1"), "{text}");
        assert!(text.contains("credence_expiry_seconds{kind=\"authority\",name=\"issuing\"} 12.5"), "{text}");
        assert_eq!(text.matches("# TYPE credence_expiry_seconds gauge").count(), 1, "{text}");
    }
    /// As OpenMetrics demands: scrapers refuse a text in which a family begins twice.
    #[test]
    fn all_doors_count_in_one_family_of_each_number() {
        let metrics = Metrics::default();
        for name in ["xds", "enrolment"] {
            metrics.door(name).open.set(1);
        }
        let text = metrics.to_text();
        let of_open: Vec<&str> = text.lines().filter(|line| line.contains("connections_open")).collect();
        let [help, kind, one, other] = of_open[..] else { panic!("{text}") };
        assert_eq!(help, "# HELP credence_connections_open Open connections.");
        assert_eq!(kind, "# TYPE credence_connections_open gauge");
        let mut members = [one, other];
        members.sort_unstable();
        let member = |door: &str| format!("credence_connections_open{{door=\"{door}\"}} 1");
        assert_eq!(members, [member("enrolment"), member("xds")]);
    }
}
