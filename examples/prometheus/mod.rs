//! `--metrics`: the metrics of the process for Prometheus, over HTTP.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use std::net::SocketAddr;
use tonic_etcd::metrics::MetricsObserver;

/// An attempt to renew is given up after 0.6 s.
const BUCKETS: [f64; 6] = [0.001, 0.005, 0.02, 0.1, 0.3, 0.6];

/// Serves the metrics of this process at `http://ADDR/metrics`, until the runtime ends.
pub(crate) fn serve(addr: SocketAddr) -> Result<MetricsObserver, BuildError> {
    let name = "tonic_etcd_renewal_duration_seconds".to_owned();
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(name), &BUCKETS)?
        .with_http_listener(addr)
        .install()?;
    // After the recorder is installed: earlier handles record nothing.
    Ok(MetricsObserver::new())
}
