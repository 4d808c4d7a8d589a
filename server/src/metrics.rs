//! Instruments of the server (OPS-4): counters and durations that its parts keep, and samples that they give when somebody
//! looks. A label holds a word of this program or the domain of a neighbour, and nothing else: no metric can tell a name
//! or an id (PRIV-4). [`crate::metrics_listener`] shows them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use postern_protocol::{name::Domain, token::TokenType};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, prometheus_text},
    metrics::{MetricType, counter::Counter, exemplar::Exemplar, family::Family, histogram::Histogram},
    registry::Registry,
};

/// The media type of what [`write`] writes.
pub const MEDIA_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper bounds of durations, in seconds: from an answer out of memory to the longest long-poll.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Label {
    /// A word of this program.
    Word(&'static str),
    /// The domain of a homeserver that this one deals with.
    Neighbour(Domain),
}

impl Label {
    fn as_str(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Neighbour(domain) => domain.as_str(),
        }
    }
}

impl From<&'static str> for Label {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<TokenType> for Label {
    fn from(kind: TokenType) -> Self {
        Self::Word(match kind {
            TokenType::PrivateP384 => "1",
            TokenType::Public => "2",
            TokenType::PrivateRistretto255 => "5",
        })
    }
}

/// The labels of one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels<const N: usize> {
    names: [&'static str; N],
    values: [Label; N],
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        encode_labels(&self.names, &self.values, encoder)
    }
}

fn encode_labels(names: &[&'static str], values: &[Label], encoder: &mut LabelSetEncoder) -> fmt::Result {
    for (name, value) in names.iter().zip(values) {
        EncodeLabel::encode(&(*name, value.as_str()), encoder.encode_label())?;
    }
    Ok(())
}

/// Counters that differ in their labels. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Counters<const N: usize> {
    names: [&'static str; N],
    family: Family<Labels<N>, Counter>,
}

impl<const N: usize> Counters<N> {
    pub fn new(names: [&'static str; N]) -> Self {
        Self { names, family: Family::default() }
    }

    /// Shows a series from the beginning, at zero: a rate needs a first value.
    pub fn begin(&self, values: [Label; N]) {
        self.add(values, 0);
    }

    pub fn add(&self, values: [Label; N], number: u64) {
        self.family.get_or_create(&Labels { names: self.names, values }).inc_by(number);
    }
}

/// Durations that differ in their labels, as histograms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Durations<const N: usize> {
    names: [&'static str; N],
    family: Family<Labels<N>, Histogram, fn() -> Histogram>,
}

impl<const N: usize> Durations<N> {
    pub fn new(names: [&'static str; N]) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BOUNDS);
        Self { names, family: Family::new_with_constructor(histogram) }
    }

    /// Shows a series from the beginning.
    pub fn begin(&self, values: [Label; N]) {
        drop(self.family.get_or_create(&Labels { names: self.names, values }));
    }

    pub fn add_since(&self, values: [Label; N], begun: Instant) {
        self.add(values, begun.elapsed());
    }

    fn add(&self, values: [Label; N], duration: Duration) {
        self.family.get_or_create(&Labels { names: self.names, values }).observe(duration.as_secs_f64());
    }
}

/// The kind of a metric whose samples are taken when somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// Grows only.
    Counter,
}

/// A metric whose samples are taken when somebody looks.
#[derive(Debug)]
pub struct Metric {
    /// The name, without the `_total` that counters get.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

impl Metric {
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }
}

/// Samples of one look.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<(&'static Metric, Vec<(Vec<Label>, f64)>)>);

impl Samples {
    /// Adds a sample. Those of a metric are added one after the other.
    pub fn add<const N: usize>(&mut self, metric: &'static Metric, labels: [Label; N], value: f64) {
        debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
        let place = self.0.iter().position(|(known, _)| known.name == metric.name);
        let place = place.unwrap_or_else(|| {
            self.0.push((metric, Vec::new()));
            self.0.len() - 1
        });
        self.0[place].1.push((labels.to_vec(), value));
    }

    /// Adds a number of things.
    pub fn count<const N: usize>(&mut self, metric: &'static Metric, labels: [Label; N], number: usize) {
        self.add(metric, labels, number as f64);
    }

    /// Adds all samples of another look.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }
}

/// The labels of a sample.
struct SampleLabels<'a>(&'a [&'static str], &'a [Label]);

impl EncodeLabelSet for SampleLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        encode_labels(self.0, self.1, encoder)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (metric, samples) in &self.0 {
            let kind = match metric.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut metrics = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in samples {
                let labels = SampleLabels(metric.labels, labels);
                let mut sample = metrics.encode_family(&labels)?;
                match metric.kind {
                    Kind::Gauge => sample.encode_gauge(value)?,
                    Kind::Counter => {
                        sample.encode_counter(value, None::<&Exemplar<SampleLabels<'_>, f64>>)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// All instruments that count by themselves.
#[derive(Debug, Default)]
pub struct Instruments(Registry);

impl Instruments {
    /// Takes counters in, under a name without the `_total` that it gets, and with a sentence, without a full stop.
    pub fn counters<const N: usize>(&mut self, name: &'static str, help: &'static str, of: &Counters<N>) {
        self.0.register(name, help, of.family.clone());
    }

    /// Takes durations in.
    pub fn durations<const N: usize>(&mut self, name: &'static str, help: &'static str, of: &Durations<N>) {
        self.0.register(name, help, of.family.clone());
    }

    /// Writes what the instruments show, and samples, in Prometheus's text format.
    pub fn write(&self, samples: Samples) -> String {
        let mut text = String::new();
        let mut of_look = Registry::default();
        of_look.register_collector(Box::new(samples));
        for registry in [&self.0, &of_look] {
            prometheus_text::encode(&mut text, registry).expect("text can be written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WAITING: Metric = Metric::gauge("waiting", &["domain"], "Deliveries that wait.");
    static SENT: Metric = Metric::counter("sent", &[], "Notifications.");

    #[test]
    fn instruments_and_samples_are_written_as_prometheus_reads_them() {
        let mut instruments = Instruments::default();
        let requests = Counters::new(["route", "outcome"]);
        instruments.counters("requests", "Requests", &requests);
        requests.add(["/qs/queues/{queue_id}".into(), "ok".into()], 3);
        let durations = Durations::new(["route"]);
        instruments.durations("seconds", "Durations", &durations);
        durations.add(["/health".into()], Duration::from_millis(30));
        let mut samples = Samples::default();
        samples.count(&WAITING, [Label::Neighbour("b.example".parse().unwrap())], 7);
        samples.add(&SENT, [], 2.0);
        samples.count(&WAITING, ["other".into()], 0);
        let text = instruments.write(samples);
        for line in [
            "# HELP requests_total Requests.",
            "# TYPE requests_total counter",
            "requests_total{route=\"/qs/queues/{queue_id}\",outcome=\"ok\"} 3",
            "# TYPE seconds histogram",
            "seconds_bucket{route=\"/health\",le=\"0.025\"} 0",
            "seconds_bucket{route=\"/health\",le=\"0.05\"} 1",
            "seconds_count{route=\"/health\"} 1",
            "# TYPE waiting gauge",
            "waiting{domain=\"b.example\"} 7.0",
            "waiting{domain=\"other\"} 0.0",
            "# HELP sent_total Notifications.",
            "sent_total 2.0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert_eq!(text.matches("# TYPE waiting").count(), 1);
    }

    /// Metrics are made here only, where labels have a type that holds no id and no name.
    #[test]
    fn no_other_file_of_the_server_makes_metrics() {
        let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()];
        let mut found: Vec<std::path::PathBuf> = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir::<std::path::PathBuf>(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read_to_string(&path).unwrap().contains("prometheus_client") {
                    found.push(path);
                }
            }
        }
        assert_eq!(found, [std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics.rs")]);
    }
}
