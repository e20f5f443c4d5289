//! Numbers for Prometheus. The recorder belongs to the server: nothing global, so that two servers
//! in one process do not count each other's requests.

use std::time::Duration;

use ds4_kvstore::Stats as StoreStats;
use ds4_scheduler::Status;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

static META: Metadata<'static> = Metadata::new("ds4", Level::INFO, None);

const SECONDS: [f64; 14] =
    [0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];
const STEP_SECONDS: [f64; 12] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// Name, whether it is a histogram, and what it counts.
const HELP: [(&str, &str); 24] = [
    ("ds4_requests_total", "Responses by API and HTTP status."),
    ("ds4_answers_total", "Answers by API and by why they ended."),
    ("ds4_tokens_total", "Tokens by kind: prompt, cached, generated, reasoning."),
    ("ds4_cache_hits_total", "Requests by where the beginning of their prompt came from."),
    ("ds4_ttft_seconds", "Time from a request to its first token."),
    ("ds4_itl_seconds", "Time between two tokens of an answer."),
    ("ds4_request_seconds", "Time from a request to the end of its answer."),
    ("ds4_queue", "Requests that wait for a session."),
    ("ds4_active", "Requests that have a session."),
    ("ds4_live_tokens", "Tokens held by sessions."),
    ("ds4_prefilled_tokens_total", "Prompt tokens computed."),
    ("ds4_steps_total", "Calls of the model."),
    ("ds4_step_microseconds_total", "Time spent in them."),
    ("ds4_broken_steps_total", "Calls that panicked or were refused."),
    ("ds4_deferred_total", "Requests that waited for another one to compute a shared beginning."),
    ("ds4_kv_stored_total", "Files written to the disk cache."),
    ("ds4_kv_stored_bytes_total", "Bytes written to the disk cache."),
    ("ds4_kv_hits_total", "Sequences loaded from the disk cache."),
    ("ds4_kv_misses_total", "Lookups in the disk cache without a usable file."),
    ("ds4_kv_evicted_total", "Files dropped for the budget of the disk cache."),
    ("ds4_kv_set_aside_total", "Files of the disk cache found damaged."),
    ("ds4_turns_bytes", "Bytes of remembered turns."),
    ("ds4_kv_files", "Files of the disk cache."),
    ("ds4_kv_bytes", "Bytes of the disk cache."),
];

/// Counters, gauges and histograms of a server.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    pub(crate) ttft: Histogram,
    pub(crate) itl: Histogram,
    pub(crate) duration: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let buckets = |builder: PrometheusBuilder, name: &str, values: &[f64]| {
            let matcher = Matcher::Full(name.to_owned());
            builder.set_buckets_for_metric(matcher, values).expect("values are given")
        };
        let builder = buckets(PrometheusBuilder::new(), "ds4_ttft_seconds", &SECONDS);
        let builder = buckets(builder, "ds4_request_seconds", &SECONDS);
        let builder = buckets(builder, "ds4_itl_seconds", &STEP_SECONDS);
        let recorder = builder.build_recorder();
        for (name, help) in HELP {
            let unit = name.ends_with("_seconds").then_some(Unit::Seconds);
            if name.ends_with("_total") {
                recorder.describe_counter(name.into(), unit, help.into());
            } else if unit.is_some() {
                recorder.describe_histogram(name.into(), unit, help.into());
            } else {
                recorder.describe_gauge(name.into(), unit, help.into());
            }
        }
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &META);
        let (ttft, itl) = (histogram("ds4_ttft_seconds"), histogram("ds4_itl_seconds"));
        let duration = histogram("ds4_request_seconds");
        let handle = recorder.handle();
        Self { recorder, handle, ttft, itl, duration }
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &META)
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        self.recorder.register_gauge(&Key::from_static_name(name), &META)
    }

    pub(crate) fn response(&self, api: &'static str, status: u16) {
        let labels =
            vec![Label::from_static_parts("api", api), Label::new("status", status.to_string())];
        self.counter("ds4_requests_total", labels).increment(1);
    }

    pub(crate) fn answer(&self, api: &'static str, finish: &'static str) {
        let labels = [("api", api), ("finish", finish)];
        let labels = labels.map(|(key, value)| Label::from_static_parts(key, value)).to_vec();
        self.counter("ds4_answers_total", labels).increment(1);
    }

    pub(crate) fn tokens(&self, kind: &'static str, n: usize) {
        let labels = vec![Label::from_static_parts("kind", kind)];
        self.counter("ds4_tokens_total", labels).increment(n as u64);
    }

    pub(crate) fn cache(&self, source: &'static str) {
        let labels = vec![Label::from_static_parts("source", source)];
        self.counter("ds4_cache_hits_total", labels).increment(1);
    }

    /// Everything in Prometheus' text format. `turns` are ids and bytes of remembered turns.
    pub(crate) fn render(&self, status: Status, kv: StoreStats, turns: (usize, usize)) -> String {
        let counters = status.counters;
        for (name, value) in [
            ("ds4_prefilled_tokens_total", counters.prefilled_tokens),
            ("ds4_steps_total", counters.steps),
            ("ds4_step_microseconds_total", counters.step_us),
            ("ds4_broken_steps_total", counters.broken_steps),
            ("ds4_deferred_total", counters.deferred),
            ("ds4_kv_stored_total", kv.stored),
            ("ds4_kv_stored_bytes_total", kv.stored_bytes),
            ("ds4_kv_hits_total", kv.hits),
            ("ds4_kv_misses_total", kv.misses),
            ("ds4_kv_evicted_total", kv.evicted),
            ("ds4_kv_set_aside_total", kv.set_aside),
        ] {
            self.counter(name, Vec::new()).absolute(value);
        }
        for (name, value) in [
            ("ds4_queue", status.waiting as f64),
            ("ds4_active", status.active as f64),
            ("ds4_live_tokens", status.tokens_held as f64),
            ("ds4_kv_files", kv.files as f64),
            ("ds4_kv_bytes", kv.bytes as f64),
            ("ds4_turns_bytes", turns.1 as f64),
        ] {
            self.gauge(name).set(value);
        }
        self.handle.render()
    }

    /// Sums up what the histograms have collected; to be called now and then.
    pub(crate) fn tidy(&self) {
        self.handle.run_upkeep();
    }
}

/// Distance of calls of [`Metrics::tidy`].
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(5);
