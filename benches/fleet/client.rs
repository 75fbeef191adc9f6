//! [`Client`]: one client, with connections and a watch of its own.

use crate::args::{Args, Who};
use crate::host::SERVICE;
use crate::naive::Naive;
use crate::problem::Problem;
use std::collections::BTreeSet;
use std::sync::Arc;
use test_support::load::{self, Ledger, Pace};
use tonic_etcd::Etcd;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::channel::ConnectivityState;
use tonic_etcd::discovery::Discovery;

/// One client of either kind.
#[derive(Debug)]
pub(crate) enum Client {
    Balanced {
        discovery: Discovery,
        channel: BalancedChannel,
    },
    Naive(Naive),
}

// === impl Client ===

impl Client {
    pub(crate) fn start(who: Who, etcd: &str, args: &Args) -> Result<Self, Problem> {
        let keep_alive = (args.keep_alive, args.keep_alive_timeout);
        if who == Who::Naive {
            return Ok(Self::Naive(Naive::start(etcd, keep_alive)));
        }
        let discovery = Discovery::builder(Etcd::new([etcd]), SERVICE).build()?;
        let channel = discovery
            .channel()
            .http2_keep_alive_interval(keep_alive.0)
            .keep_alive_timeout(keep_alive.1)
            .build()?;
        Ok(Self::Balanced { discovery, channel })
    }

    /// Begins to call.
    pub(crate) fn load(&self, pace: Pace, ledger: Arc<Ledger>) {
        match self {
            Self::Balanced { channel, .. } => load::start(channel.clone(), pace, ledger),
            Self::Naive(naive) => load::start(naive.channel.clone(), pace, ledger),
        }
    }

    /// The addresses that a call could go to now, as far as the client reports them.
    pub(crate) fn callable(&self) -> BTreeSet<String> {
        match self {
            Self::Naive(naive) => naive.addresses().into_iter().collect(),
            Self::Balanced { channel, .. } => {
                let endpoints = channel.endpoints().into_iter();
                let ready = endpoints.filter(|endpoint| endpoint.state == ConnectivityState::Ready);
                ready.map(|endpoint| endpoint.address.to_string()).collect()
            }
        }
    }

    /// The addresses that it has found, whether they can be called or not.
    pub(crate) fn found(&self) -> BTreeSet<String> {
        match self {
            Self::Naive(naive) => naive.addresses().into_iter().collect(),
            Self::Balanced { discovery, .. } => {
                let snapshot = discovery.snapshot();
                let addresses = snapshot.iter().filter_map(|(_, found)| found.address());
                addresses.map(str::to_owned).collect()
            }
        }
    }
}
