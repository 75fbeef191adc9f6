//! The messages of registrars, discoveries and channels, bounded.

use super::pb;
use super::snapshot::{age_ms, key, left_ms, ms, text};
use super::sources::Sources;
use crate::observe::member_stats::{MemberState, MemberStats};
use crate::observe::timestamp::Timestamp;
use crate::registrar::Registry;
use std::sync::Arc;

#[cfg(feature = "discovery")]
use crate::channel::{self, BalancedChannel};
#[cfg(feature = "discovery")]
use crate::discovery::{Discovery, Skipped};

/// The most endpoints of all channels in a message, and the most members of etcd.
#[cfg(feature = "discovery")]
const MOST_ENDPOINTS: usize = 1000;
const MOST_MEMBERS: usize = 64;

/// The current state of registrars, discoveries and channels.
pub(super) fn process(sources: &Sources) -> pb::Process {
    pb::Process {
        registrars: sources.registries.iter().map(|it| registrar(it)).collect(),
        #[cfg(feature = "discovery")]
        discoveries: sources.discoveries.iter().map(discovery).collect(),
        #[cfg(feature = "discovery")]
        channels: channels(&sources.channels),
        #[cfg(not(feature = "discovery"))]
        discoveries: vec![],
        #[cfg(not(feature = "discovery"))]
        channels: vec![],
    }
}

/// The same without the fields that change with every renewal and every request.
pub(super) fn steady(mut process: pb::Process) -> pb::Process {
    for registrar in &mut process.registrars {
        registrar.lease_expires_in_ms = None;
        registrar.renewal_sent_age_ms = None;
        registrar.renewal_acknowledged_age_ms = None;
        registrar.renewal_due_in_ms = None;
        registrar.last_error_age_ms = None;
        for endpoint in &mut registrar.endpoints {
            (endpoint.failing_for_ms, endpoint.last_error_age_ms) = (None, None);
        }
    }
    for discovery in &mut process.discoveries {
        discovery.answer_age_ms = None;
    }
    for channel in &mut process.channels {
        for endpoint in &mut channel.endpoints {
            (endpoint.in_flight, endpoint.calls) = (0, 0);
        }
    }
    process
}

fn registrar(registry: &Registry) -> pb::Registrar {
    let etcd = registry.stats.get();
    let members = registry.config.members.shown();
    let endpoints = members.iter().take(MOST_MEMBERS);
    let endpoints = endpoints
        .map(|url| etcd_endpoint(url, &etcd.members))
        .collect();
    let expiry = registry.lease_expiry.get().map(Timestamp::at);
    let (last_error_at, last_error) = etcd.last_error.unzip();
    pb::Registrar {
        registrations: registry.entries().len() as u64,
        endpoints,
        ttl_ms: ms(registry.config.ttl),
        lease_expires_in_ms: expiry.map(left_ms).filter(|left| *left > 0),
        lease: etcd.lease.unwrap_or(0),
        renewal_sent_age_ms: etcd.renewal_sent.map(age_ms),
        renewal_acknowledged_age_ms: etcd.renewal_acknowledged.map(age_ms),
        renewal_due_in_ms: etcd.renewal_due.map(left_ms),
        last_error: last_error.as_deref().map_or_else(String::new, text),
        last_error_age_ms: last_error_at.map(age_ms),
        is_stopping: registry.is_stopping(),
        not_ready: registry
            .pause_of_all()
            .as_deref()
            .map_or_else(String::new, text),
    }
}

fn etcd_endpoint(url: &Arc<str>, tried: &[MemberStats]) -> pb::EtcdEndpoint {
    let tried = tried.iter().find(|it| it.endpoint == *url);
    let state = tried.map_or(pb::EtcdEndpointState::Untried, |it| match it.state {
        MemberState::Connected => pb::EtcdEndpointState::Connected,
        MemberState::Idle => pb::EtcdEndpointState::Idle,
        MemberState::Failing { .. } => pb::EtcdEndpointState::Failing,
        MemberState::Refusing { .. } => pb::EtcdEndpointState::Refusing,
    });
    let last_error = tried.and_then(|it| it.last_error.as_ref());
    pb::EtcdEndpoint {
        url: key(url),
        is_connected: state == pb::EtcdEndpointState::Connected,
        state: state.into(),
        failing_for_ms: tried.and_then(|it| it.state.since()).map(age_ms),
        last_error: last_error.map_or_else(String::new, |(_, it)| text(it)),
        last_error_age_ms: last_error.map(|(at, _)| age_ms(*at)),
    }
}

#[cfg(feature = "discovery")]
fn discovery(discovery: &Discovery) -> pb::Discovery {
    let snapshot = discovery.snapshot();
    pb::Discovery {
        service: key(discovery.service()),
        prefix: key(discovery.prefix()),
        revision: snapshot.revision(),
        instances: snapshot.len() as u64,
        missing: snapshot.missing() as u64,
        skipped: snapshot.skipped() as u64,
        watch_error: snapshot.watch_error().map_or_else(String::new, text),
        skipped_by_reason: snapshot.skipped_by_reason().iter().map(skipped).collect(),
        answer_age_ms: discovery.last_answer().map(|at| ms(at.elapsed())),
    }
}

#[cfg(feature = "discovery")]
fn skipped(skipped: &Skipped) -> pb::Skipped {
    pb::Skipped {
        reason: text(&skipped.reason),
        keys: skipped.keys as u64,
        example: skipped.example.as_deref().map_or_else(String::new, key),
    }
}

#[cfg(feature = "discovery")]
fn channels(channels: &[(String, BalancedChannel)]) -> Vec<pb::Channel> {
    let mut room = MOST_ENDPOINTS;
    let shown = channels.iter().map(|(name, channel)| {
        let states = channel.endpoints();
        let total = states.len() as u64;
        let endpoints: Vec<_> = states.into_iter().take(room).map(endpoint).collect();
        room -= endpoints.len();
        pb::Channel {
            name: key(name),
            endpoints,
            endpoints_total: total,
        }
    });
    shown.collect()
}

#[cfg(feature = "discovery")]
fn endpoint(endpoint: channel::EndpointStats) -> pb::ChannelEndpoint {
    use channel::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    let (state, reason) = match endpoint.state {
        Idle => (pb::ConnectivityState::Idle, String::new()),
        Connecting => (pb::ConnectivityState::Connecting, String::new()),
        Ready => (pb::ConnectivityState::Ready, String::new()),
        TransientFailure { reason } => (pb::ConnectivityState::TransientFailure, text(&reason)),
    };
    pb::ChannelEndpoint {
        address: key(&endpoint.address),
        weight: endpoint.weight,
        state: state.into(),
        reason,
        in_flight: endpoint.in_flight as u64,
        calls: endpoint.calls,
    }
}
