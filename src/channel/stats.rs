//! [`ChannelStats`]: the state of a channel at one moment.

use super::pool::{EndpointStats, Pool};

/// A channel, as it was when [`BalancedChannel::stats`](super::BalancedChannel::stats) was called.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChannelStats {
    /// The name of the service in errors and logs; empty while there is none.
    pub service: String,
    /// The endpoints, ordered by address.
    pub endpoints: Vec<EndpointStats>,
    /// How many of them can be called.
    pub ready: usize,
    /// The calls that have not ended, on all endpoints.
    pub in_flight: usize,
    /// How often calls were sent again, to another endpoint.
    pub resent: u64,
}

// === impl ChannelStats ===

impl ChannelStats {
    pub(super) fn of(pool: &Pool) -> Self {
        let endpoints = pool.states();
        Self {
            service: pool.name().to_owned(),
            ready: endpoints.iter().filter(|it| it.state.is_ready()).count(),
            in_flight: endpoints.iter().map(|it| it.in_flight).sum(),
            resent: pool.resent(),
            endpoints,
        }
    }
}
